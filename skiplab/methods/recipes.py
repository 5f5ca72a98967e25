"""The classes and the code that define a module's training."""

from skiplab.utils.own_code import own_code

# The methods that define a training: a class that overrides one of them trains differently.
_TRAINING_METHODS = ("loss", "training_step", "optimizer_step", "configure_optimizers")


def qualified_name(cls: type) -> str:
    """Dotted path of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def statement_counts(cls: type) -> bool:
    """Whether `shared_recipe` comes from the class that defines the training, or from a subclass of it."""
    stated = _owner(cls, "shared_recipe")
    return all(issubclass(stated, _owner(cls, name)) for name in _TRAINING_METHODS)


def training_code(cls: type, *, shared: bool) -> dict[str, str]:
    """Hashes of the user code that trains a class, by module.

    Args:
        shared: whether other classes may share the training. If so, only the classes that define it count; otherwise
            the class and all its parents.
    """
    owners = {_owner(cls, name) for name in (*_TRAINING_METHODS, "shared_recipe")} if shared else set(cls.__mro__)
    modules = sorted({owner.__module__ for owner in owners})
    package = cls.__module__.partition(".")[0]
    return {name: digest for module in modules for name, digest in own_code(module, package).items()}


def _owner(cls: type, name: str) -> type:
    """The class in the MRO that defines an attribute of `cls`."""
    return next(base for base in cls.__mro__ if name in vars(base))
