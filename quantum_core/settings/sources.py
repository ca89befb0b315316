"""Where values of settings come from beside the environment: secrets in files; and values as environment files have them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

WRONG = "Wrong settings, nothing was started ({}):\n"
_COMMENT = re.compile(r"(^|\s+)#.*$")


class SettingsError(ValueError):
    """Wrong settings; the text names every wrong variable, its value and what is accepted."""


class SecretFiles(PydanticBaseSettingsSource):
    """Reads a secret from a file: the one named by ``<NAME>_FILE``, or the credential ``<name>`` that systemd hands over."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Read one field's file, if there is one.

        Raises
        ------
        SettingsError
            It cannot be read, or the secret is given in another way, too.
        """
        if "Secret" not in str(field.annotation):
            return None, field_name, False
        variable = f"{field_name.upper()}_FILE"
        credential = Path(os.environ.get("CREDENTIALS_DIRECTORY", "")) / field_name
        text_by_way = {one: uncommented(os.environ.get(one, "")) for one in (field_name.upper(), variable)}
        text_by_way[f"credential {field_name}"] = str(credential) if credential.is_absolute() and credential.exists() else ""
        ways = [way for way, text in text_by_way.items() if text]
        if len(ways) > 1:
            msg = f"  {' and '.join(ways)} are all given; accepted: one of them"
            raise SettingsError(WRONG.format(1) + msg)
        if not ways or ways == [field_name.upper()]:
            return None, field_name, False
        try:
            return Path(text_by_way[ways[0]]).read_text().strip(), field_name, False
        except (OSError, UnicodeDecodeError) as error:
            msg = f"  {ways[0]}={text_by_way[ways[0]]!r} cannot be read: {error}"
            raise SettingsError(WRONG.format(1) + msg) from None

    def __call__(self) -> dict[str, Any]:
        """Read all of them."""
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


def uncommented(text: str) -> str:
    """Take the comment off a value."""
    return _COMMENT.sub("", text).strip()
