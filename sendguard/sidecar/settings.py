"""What the sidecar is told: by the environment, by a TOML file, and by the command line, which comes first.

Every field is `SENDGUARD_<FIELD>` in the environment and `<field>` in the file; what `SendGuard.from_env` reads counts
as well, under the same names.
"""

from __future__ import annotations

import re
import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from sendguard.alerts import AsyncAlerter, Rule, Severity
from sendguard.async_guard import AsyncSendGuard
from sendguard.guard import SendGuard, environment
from sendguard.lease import Lease
from sendguard.sidecar.policy_settings import PolicySettings

AnyGuard = TypeVar("AnyGuard", SendGuard, AsyncSendGuard)


def _urls_apart(value: object) -> object:
    """Several apprise URLs in one environment variable: commas or spaces between; a comma within one stays."""
    return [part for part in _BETWEEN_URLS.split(value.strip()) if part] if isinstance(value, str) else value


def _apart(value: object) -> object:
    """Several secrets in one environment variable: commas between."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


_BETWEEN_URLS = re.compile(r"[,\s]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")


class ConfigError(Exception):
    """A configuration that cannot be used. problems: one line for each thing that is wrong; none holds a secret."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


class Settings(BaseSettings):
    """The sidecar's configuration, checked.

    store, pool, hash_key, webhook_secret, api_key, api_base_url, timeout, policy: as the arguments of `SendGuard`.
    lease_ttl: seconds of a `Lease`; None for none.
    host, port: where to listen; anything but a loopback address needs a token. tokens: what callers show as
    `Authorization: Bearer`, each of them good; none asks for none. poll_interval: seconds between polls of the whole
    fleet, 0 for no polling. drain_timeout: seconds that decisions in flight may take after SIGTERM. log_format: text,
    or one JSON object a line. log_level: of what sendguard itself writes; at "debug" that is every decision.
    alert_urls: apprise URLs that are told of lines; alert_page_urls and so on: instead of these, for one severity.
    alert_quiet: seconds in which the same severity of the same line is not told again.
    """

    model_config = SettingsConfigDict(
        env_prefix="SENDGUARD_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    store: SecretStr = SecretStr("memory://")
    pool: str = "default"
    hash_key: SecretStr | None = None
    webhook_secret: Annotated[list[SecretStr], NoDecode] = []
    api_key: SecretStr | None = None
    api_base_url: str | None = None
    timeout: float = 0.25
    lease_ttl: float | None = None
    policy: PolicySettings = PolicySettings()
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65_535)
    tokens: Annotated[list[SecretStr], NoDecode] = []
    poll_interval: float = Field(default=60.0, ge=0, le=86_400, allow_inf_nan=False)
    drain_timeout: int = Field(default=65, ge=1, le=3600)
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    alert_urls: Annotated[list[SecretStr], NoDecode] = []
    alert_page_urls: Annotated[list[SecretStr] | None, NoDecode] = None
    alert_warning_urls: Annotated[list[SecretStr] | None, NoDecode] = None
    alert_info_urls: Annotated[list[SecretStr] | None, NoDecode] = None
    alert_recovery_urls: Annotated[list[SecretStr] | None, NoDecode] = None
    alert_quiet: float = Field(default=900.0, ge=0, le=86_400, allow_inf_nan=False)

    _split = field_validator("webhook_secret", "tokens", mode="before")(_apart)
    _split_urls = field_validator(
        "alert_urls", *(f"alert_{severity.value}_urls" for severity in Severity), mode="before"
    )(_urls_apart)

    @field_validator("store")
    @classmethod
    def _store_is_a_url(cls, store: SecretStr) -> SecretStr:
        try:
            urlsplit(store.get_secret_value()).port  # noqa: B018 (reading it is the check)
        except ValueError:
            # Its own text would quote a part of the URL, which may be a password.
            raise ValueError("must be a URL such as redis://localhost:6379/0") from None
        return store

    @field_validator("api_base_url")
    @classmethod
    def _base_is_a_url(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("https://", "http://")):
            raise ValueError("must be an http or https URL, what precedes /v3")
        return url

    @field_validator("tokens")
    @classmethod
    def _tokens_can_be_shown(cls, tokens: list[SecretStr]) -> list[SecretStr]:
        for token in tokens:
            text = token.get_secret_value()
            if not text or not text.isascii() or not text.isprintable() or " " in text:
                raise ValueError("must be of printable ASCII characters without spaces")
        return tokens

    @model_validator(mode="after")
    def _guarded_by_a_token(self) -> Self:
        if not self.tokens and not _is_loopback(self.host):
            raise ValueError("host is not a loopback address, so tokens must hold a bearer token")
        if self.poll_interval and self.api_key is None:
            raise ValueError("api_key is needed to poll; poll_interval = 0 turns polling off")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The command line, the environment by this class's names and by those of `SendGuard.from_env`, the file."""
        from_env = InitSettingsSource(settings_cls, environment())
        return init_settings, env_settings, from_env, TomlConfigSettingsSource(settings_cls)

    @classmethod
    def load(cls, file: Path | None = None, **given: Any) -> Settings:
        """Read and check everything. file: of TOML. given: what was said on the command line; None was not said.

        Raises ConfigError naming each thing that is wrong.
        """

        class FromFile(cls):  # type: ignore[misc, valid-type]
            model_config = SettingsConfigDict(toml_file=file)

        try:
            if file is not None:
                file.open("rb").close()  # a file that is not there would count as empty
            settings: Settings = FromFile(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            raise ConfigError([_line(problem) for problem in error.errors(include_input=False)]) from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigError([f"{file}: not TOML: {error}"]) from None
        except OSError as error:
            raise ConfigError([f"{file}: {error.strerror}"]) from None
        except (SettingsError, ValueError) as error:
            raise ConfigError([str(error)]) from None
        return settings

    def warnings(self) -> list[str]:
        """What is allowed, and seldom meant."""
        found = []
        if self.store.get_secret_value().startswith("memory:"):
            found.append("store is memory: what is learnt is shared with no other process, and lost when this one ends")
        if not self.webhook_secret:
            found.append("webhook_secret is not set: every webhook is refused, and a FLAGGED line goes unnoticed")
        return found

    def guard(self) -> AsyncSendGuard:
        """A guard as told. Raises ConfigError naming what it does not take."""
        return self.guard_of(AsyncSendGuard)

    def guard_of(self, kind: type[AnyGuard], *, refresh: float | None = 1.0) -> AnyGuard:
        """As `guard`, of either kind. refresh: as the guard takes it."""
        try:
            return kind(
                self.store.get_secret_value(),
                pool=self.pool,
                policy=self.policy.policy(),
                webhook_secret=[secret.get_secret_value() for secret in self.webhook_secret],
                hash_key=None if self.hash_key is None else self.hash_key.get_secret_value(),
                api_key=None if self.api_key is None else self.api_key.get_secret_value(),
                api_base_url=self.api_base_url,
                timeout=self.timeout,
                refresh=refresh,
                lease=None if self.lease_ttl is None else Lease(ttl=self.lease_ttl),
            )
        except ValueError as error:
            raise ConfigError([str(error)]) from None

    def alerter(self, guard: AsyncSendGuard) -> AsyncAlerter | None:
        """What tells people of lines, not started; None where no URL is set. Raises ConfigError naming the setting."""
        own = {severity: getattr(self, f"alert_{severity.value}_urls") for severity in Severity}
        if not self.alert_urls and not any(own.values()):
            return None
        rules: dict[Severity | str, Rule] = {
            severity: Rule(None if urls is None else _shown(urls), quiet=self.alert_quiet)
            for severity, urls in own.items()
        }
        try:
            return guard.alerter(_shown(self.alert_urls), rules=rules, name="sidecar")
        except ValueError as error:
            raise ConfigError([re.sub(r"^(?:rules\['(\w+)'\]\.)?urls", _setting, str(error))]) from None


def _shown(secrets: list[SecretStr]) -> list[str]:
    return [secret.get_secret_value() for secret in secrets]


def _setting(argument: re.Match[str]) -> str:
    return f"alert_{argument[1]}_urls" if argument[1] else "alert_urls"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _line(problem: ErrorDetails) -> str:
    """One thing that is wrong, in one line that starts with the name of the setting."""
    name = ".".join(str(part) for part in problem["loc"])
    unknown = problem["type"] == "extra_forbidden"
    text = "there is no such setting" if unknown else problem["msg"].removeprefix("Value error, ")
    return f"{name}: {text}" if name else text
