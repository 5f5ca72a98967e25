"""The configurations that tests copy are those that Hydra composes."""

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import ConfigCompositionException

from tests.comparison.small import SIZE, SMALL
from tests.composed import composed

CHANGES = (
    "seeds=[0,1]",
    "~methods.calm",
    "+methods.own={name:own,sweep:{}}",
    "methods.skipdecode.sweep={speedup:[2]}",
    "data.train_size=${data.test_size}",
    "seeds=[3]",
)


@pytest.mark.parametrize(
    "overrides",
    [
        ("experiment=compare_calm",),
        ("experiment=compare_calm", *SMALL, *CHANGES),
        ("data=e2e", *SIZE, "experiment=skip_or_terminate", "trainer=ddp", "+method@methods.more=shallow"),
        ("experiment=compare_calm", "method=full", "methods={}", "method.sweep.fine_tune=[false]"),
    ],
)
def test_it_is_the_configuration_that_hydra_composes(overrides: tuple[str, ...]) -> None:
    with initialize_config_module("experiments", version_base="1.3"):
        whole = compose("config", overrides=list(overrides))
    for _ in range(2):
        found = composed(*overrides)
        assert found == whole
        assert found._metadata.flags == whole._metadata.flags


def test_it_refuses_what_hydra_refuses() -> None:
    for overrides in (["experiment=compare_calm", "speedup=[2]"], ["experiment=no"], ["~no"], ["no@there=cpu"]):
        with (
            pytest.raises(ConfigCompositionException) as refused,
            initialize_config_module("experiments", version_base="1.3"),
        ):
            compose("config", overrides=overrides)
        with pytest.raises(type(refused.value)) as here:
            composed(*overrides)
        assert str(here.value) == str(refused.value)
