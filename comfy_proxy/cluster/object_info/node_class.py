"""One node class as one instance describes it: what it lets choose from, which inputs are files.

A value that is made when somebody asks for the class, and kept by its table while it is asked for
(``class_table.py``): the JSON of all classes as objects is what the garbage collector stumbles on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from comfy_proxy.cluster.object_info import inputs
from comfy_proxy.json_steps import dumps_long


@dataclass(frozen=True)
class NodeClass:
    """One class as one instance describes it. Two are equal if they say the same."""

    name: str
    _info: inputs.NodeInfo = field(repr=False)

    @cached_property
    def _specs(self) -> dict[str, Any]:
        """By the names of its inputs; of several of one name the first. To look for one each time
        it is named took 100 ms for a graph with 20,000 inputs."""
        named: dict[str, Any] = {}
        for _, name, spec in inputs.specs(self._info):
            named.setdefault(name, spec)
        return named

    def choices(self, input_name: str) -> tuple[str, ...] | None:
        """The values that an input lets choose from (model files, methods), as text.

        None if it is no such input, or the class has no input of that name.
        """
        for _, name, spec in inputs.specs(self._info):
            if name == input_name and (listed := inputs.choices(spec)) is not None:
                return tuple(str(item) for item in listed)
        return None

    @property
    def is_output(self) -> bool | None:
        """As :func:`inputs.is_output`."""
        return inputs.is_output(self._info)

    def declares(self, input_name: str) -> bool:
        """Whether it has such an input: only those ComfyUI validates."""
        return input_name in self._specs

    @cached_property
    def _file_inputs(self) -> tuple[str, ...]:
        """Asked for by each node of a graph: to look for them anew took 100 ms for 5,000 nodes."""
        marked = (name for _, name, spec in inputs.specs(self._info) if inputs.names_file(spec))
        return tuple(dict.fromkeys((*inputs.FILE_INPUTS.get(self.name, ()), *marked)))

    def file_inputs(self) -> tuple[str, ...]:
        """The names of the inputs whose values name files of the instance's directories."""
        return self._file_inputs

    def chooses(self, input_name: str) -> bool | None:
        """True if the input chooses from a list, be it empty, that is not one of clients' files.

        None if the class describes no input of that name: some take more than they tell.
        """
        spec = self._specs.get(input_name)
        if spec is None:
            return None
        is_file = inputs.is_upload(spec) or inputs.names_file(spec)
        known_file = input_name in inputs.FILE_INPUTS.get(self.name, ())
        return inputs.choices(spec) is not None and not is_file and not known_file

    def lists_uploads(self) -> bool:
        """True if an upload changes what the instance says of this class."""
        return any(
            inputs.is_upload(spec) and inputs.choices(spec) is not None
            for _, _, spec in inputs.specs(self._info)
        )

    def texts(self) -> Iterator[str]:
        """All texts that its inputs let choose from; what else is listed is no name of a folder."""
        for _, _, spec in inputs.specs(self._info):
            for item in inputs.choices(spec) or ():
                if isinstance(item, str):
                    yield item

    def lacks(
        self,
        input_name: str,
        value: str,
        elsewhere: Callable[[], Sequence[NodeClass]],
        folders: Set[str] = frozenset(),
    ) -> bool:
        """True if the input chooses from a list in which ``value`` is missing; uploads never are,
        nor are the ``folders`` that files were uploaded to.

        With an EMPTY list only if a class of ``elsewhere``, the same one at other instances, lists
        the value: some classes list nothing and take anything, and a folder may be empty here.
        ``elsewhere`` is called in that case alone: of 300 instances each would be read.
        """
        spec = self._specs.get(input_name)
        listed = inputs.choices(spec)
        if listed is None or value in listed or value in folders or inputs.is_upload(spec):
            return False
        return bool(listed) or any(
            value in (inputs.choices(other._specs.get(input_name)) or ()) for other in elsewhere()
        )


def united_text(classes: Sequence[NodeClass]) -> bytes:
    """One class as several instances describe it, as the JSON text of its description.

    The first one's, with everybody's choices: in its order, then what only others have. Where all
    agree it is what the first one's instance writes.
    """
    return dumps_long(inputs.united([one._info for one in classes]))
