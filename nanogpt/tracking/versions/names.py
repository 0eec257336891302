"""A model of the registry by what a person calls it, or what there is instead.

found = resolve(client, "models:/nanogpt-shakespeare@champion")
found.name, found.number                    # "nanogpt-shakespeare", "3"

What follows works on that very version, wherever the alias is by then.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanogpt.common.errors import UserError
from nanogpt.common.recipe import did_you_mean
from nanogpt.tracking import location
from nanogpt.tracking.client import asking, every, usable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

PREFIX = "nanogpt-"  # of a registered model's name, before that of its recipe
FORM = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]{1,9}))")
SHOWN = 12  # names in a message


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    number: str
    about: "ModelVersion"

    @property
    def uri(self) -> str:
        """By which MLflow knows it, whatever becomes of aliases."""
        return f"models:/{self.name}/{self.number}"


def resolve(client: "MlflowClient", model: str) -> Version:
    """The version that `models:/<name>@<alias>` or `models:/<name>/<version>` is now.

    Raises:
        UserError: it is not of that form, or nothing goes by it; names what does.
        Exception: MLflow does not answer.
    """
    asked = FORM.fullmatch(model)
    form = "models:/<name>@<alias> or models:/<name>/<version>"
    if not model.startswith("models:"):
        raise UserError(
            f"{model} is no version of MLflow's registry, {form}; `make lineage MODEL=` says which"
            " version a model directory is"
        )
    name = name_of(model)
    registered = registered_model(client, name)
    if not asked:
        raise UserError(f"{model} is not of the form {form}; {_of(client, registered)}")
    if alias := asked["alias"]:
        number = registered.aliases.get(alias)
        if number is None:
            near = did_you_mean(alias, registered.aliases, lambda a: f"models:/{name}@{a}")
            raise UserError(f"{name} has no alias {alias}{near}; {_of(client, registered)}")
    else:
        number = str(int(asked["version"]))
    about = there(client.get_model_version, name, str(number))
    if about is None:
        raise UserError(
            f"{name} has no version {number}: it was deleted, or there was none;"
            f" {_of(client, registered)}"
        )
    return Version(name, str(number), about)


def look_up(model: str) -> Version:
    """`resolve`, for a command.

    Raises:
        UserError: as `resolve`.
        NotNow: MLflow does not answer.
    """
    client = usable()
    with asking():
        return resolve(client, model)


def name_of(model: str) -> str:
    """The registered model in `models:/<name>...`, or in the name alone."""
    return re.split("[/@]", model.removeprefix("models:").strip("/"))[0]


def registered_model(client: "MlflowClient", name: str) -> Any:
    """A registered model.

    Raises:
        UserError: there is none of this name; names those that there are.
    """
    if found := there(client.get_registered_model, name):
        return found
    known = sorted(model.name for model in every(client.search_registered_models))
    # by what tells them apart: nearly all names begin alike
    short = {other.removeprefix(PREFIX): other for other in known}
    near = did_you_mean(name.removeprefix(PREFIX), short, short.__getitem__)
    others = f"there are {_some(known)}" if known else "it has no registered models"
    what = f"model {name}" if name else "model without a name"
    raise UserError(f"MLflow at {location.address()} has no {what}{near}; {others}")


def there(ask: Callable[..., Any], *arguments: str) -> Any:
    """What MLflow answers, or None where it says that there is no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return ask(*arguments)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _of(client: "MlflowClient", registered: Any) -> str:
    """Which versions and aliases a registered model has."""
    name = registered.name
    found = every(client.search_model_versions, f"name = '{name}'")
    numbers = sorted(int(version.version) for version in found)
    if not numbers:
        return "it has no versions"
    aliases = (f"@{alias} (version {v})" for alias, v in sorted(registered.aliases.items()))
    return f"it has version{'s' * (len(numbers) > 1)} {_some(_ranges(numbers))}" + (
        f" and {_some(aliases)}" if registered.aliases else ", and no alias"
    )


def _ranges(numbers: list[int]) -> list[str]:
    """Whole numbers in order as `1 to 4`, `7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]


def _some(words: Iterable[str]) -> str:
    """Some of these, and how many more there are."""
    known = list(words)
    more = len(known) - SHOWN
    return ", ".join(known[:SHOWN]) + (f" and {more} more" if more > 0 else "")
