"""Server-side scripts as files: each ``.lua`` file stands beside its owner, is read once, and is called by its digest.

Here belong the reading of a file, the command that calls it, and the answer to a server that lacks it. What a script does stands
in its own header: keys and arguments by name, what it returns, what it raises.

Commands of one round trip that call scripts are independent of what follows them: a call that the server refuses, because it
lost the script while the connection lasted (``SCRIPT FLUSH``), is sent again after all the others. A command whose effect those
behind it must see is made by :meth:`Script.with_text`, which no server refuses.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis

Command = tuple[Any, ...]
WITH_TEXT = {"EVALSHA": "EVAL", "EVALSHA_RO": "EVAL_RO"}  # the same command, with the text of the script
# An access control list made before scripts were called by digest, or a server on which the command was renamed.
_NO_CALLS = re.compile(r"no permissions to run the 'evalsha(_ro)?' command|unknown command '?evalsha", re.IGNORECASE)

_by_sha1: dict[str, Script] = {}


class Script:
    """One script, read from its file when the module of its owner is imported.

    Parameters
    ----------
    owner
        ``__file__`` of the module that uses it.
    name
        Of the file, without its ending, in the folder ``lua`` beside the owner.
    read_only
        Whether it writes nothing, so that a reader's user and a replica may run it.
    """

    def __init__(self, owner: str, name: str, *, read_only: bool = False) -> None:
        self.path = Path(owner).parent / "lua" / f"{name}.lua"
        self.text = self.path.read_text(encoding="utf-8")
        self.sha1 = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()  # the server's name for it
        self._call = "EVALSHA_RO" if read_only else "EVALSHA"
        _by_sha1[self.sha1] = self

    def __call__(self, keys: Sequence[str], *arguments: Any) -> Command:
        """Build the command that calls it with these keys and arguments."""
        return (self._call, self.sha1, len(keys), *keys, *arguments)

    def with_text(self, keys: Sequence[str], *arguments: Any) -> Command:
        """Build the same command with the text in it: it keeps its place among the commands of one round trip."""
        return _with_text(self(keys, *arguments))


class ScriptCalls:
    """Calls of scripts on one server: the first one since its connections were made carries the text, all others the digest.

    What it remembers saves bytes and decides nothing: a server that lacks a script refuses the call, having done nothing, and is
    sent the text.
    """

    def __init__(self) -> None:
        self._sent: set[str] = set()
        self._refused: set[str] = set()  # commands this server or user does not have

    def forget(self) -> None:
        """Note that the next connection may lead to another server."""
        self._sent.clear()

    def outgoing(self, commands: Iterable[Sequence[Any]], calls: dict[int, Sequence[Any]]) -> Iterator[Sequence[Any]]:
        """Pass commands on as they are sent; note in ``calls`` those that may be refused, by their place."""
        for row, command in enumerate(commands):
            if command[0] not in WITH_TEXT:
                yield command
            elif command[0] in self._refused or command[1] not in self._sent:
                self._sent.add(command[1])
                yield _with_text(command)
            else:
                calls[row] = command
                yield command

    def refused(self, calls: Mapping[int, Sequence[Any]], replies: Sequence[Any]) -> dict[int, Command]:
        """Give the calls that were refused for want of the script, or of the right to call one, with their texts."""
        again = {}
        for row, command in calls.items():
            reply = replies[row]
            if not isinstance(reply, redis.ResponseError):
                continue
            if not isinstance(reply, redis.exceptions.NoScriptError):
                if not _NO_CALLS.search(str(reply)):
                    continue
                self._refused.add(command[0])
            again[row] = _with_text(command)
        return again


def _with_text(command: Sequence[Any]) -> Command:
    name, sha1, *rest = command
    return (WITH_TEXT[name], _by_sha1[sha1].text, *rest)
