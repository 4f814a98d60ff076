"""The scheduled jobs' part of the configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from core.config.section import FilePath, Section, checked
from core.config.values import MOST, Count, Rate, WholeSeconds
from core.manifests.platform import Platform


def _platform(value: str) -> str:
    Platform.parse(value)
    return value


PlatformName = Annotated[str, AfterValidator(_platform)]


class Job(Section):
    """When the scheduler runs a job: every `interval` seconds (0: never), or by `cron`.

    Default intervals are in jobs/scheduled_jobs.py.
    """

    interval: Annotated[float, Field(ge=0, le=MOST)] | None = None
    cron: Annotated[str, checked(lambda checks: checks.cron)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Job:
        if self.interval is not None and self.cron is not None:
            raise ValueError("interval and cron are both set, expected one of them")
        return self


class ScanTags(Job):
    platforms: list[PlatformName] = Field(default_factory=list)
    rate: Rate = 100.0


class Prune(Job):
    grace: WholeSeconds = 86_400
    limit: Count = 1_000


class PublishWhitelist(Job):
    file: FilePath | None = None
    reload_command: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None


class Jobs(Section):
    brew: Job = Job()
    release_locks: Job = Field(default=Job(), alias="release-locks")
    resolve_manifests: Job = Field(default=Job(), alias="resolve-manifests")
    scan_tags: ScanTags = Field(default=ScanTags(), alias="scan-tags")
    prune: Prune = Prune()
    publish_whitelist: PublishWhitelist = Field(default=PublishWhitelist(), alias="publish-whitelist")
