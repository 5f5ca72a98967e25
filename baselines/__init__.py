"""Published methods to compare with, one file each, on skiplab's engine."""
