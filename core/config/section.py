"""The base of all sections of the configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from core.errors import os_reason


class Section(BaseModel):
    """A section: unknown keys are errors, and `x_file` is read into the secret `x`."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _read_secret_file(cls, value: object, info: ValidationInfo) -> object:
        path = info.data.get(f"{info.field_name}_file")
        if path is None or f"{info.field_name}_file" not in cls.model_fields:
            return value
        if value is not None:
            raise ValueError(f"set here and by {info.field_name}_file, expected one of them")
        try:
            # Without the byte order mark that editors of Windows write.
            return path.read_text(encoding="utf-8-sig").rstrip("\r\n")
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {os_reason(error)}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path} cannot be read: not text in UTF-8") from None
