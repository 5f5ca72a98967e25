"""One function per kind of experiment, named by the key `job` of its YAML file."""
