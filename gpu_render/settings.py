"""Settings of one service process: read from the environment (``GPU_RENDER_...``) once, then frozen."""

import os
import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal

from pydantic import Field, FilePath, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024

#: As browsers write it (RFC 6454 section 6.2): no default port, no path, not even "/".
_ORIGIN = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")

#: RFC 6750 section 2.1, and too long to be guessed.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*")


def default_cache_dir() -> Path:
    """Where demo data and indexes lie: ``$XDG_CACHE_HOME/gpu-render`` or ``~/.cache/gpu-render``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gpu-render"


class Settings(BaseSettings):
    """Everything an operator can set. Each field's unit stands in its description."""

    model_config = SettingsConfigDict(env_prefix="GPU_RENDER_", frozen=True, extra="forbid")

    roots: tuple[Path, ...] = Field(default=(), description="folders that are served, JSON list of paths")
    index_path: Path | None = Field(default=None, description="SQLite index file; none: a new temporary one each start")
    index_url: str | None = Field(
        default=None,
        repr=False,  # it may hold a password
        description="PostgreSQL database that holds the index instead: postgresql://USER@HOST/DATABASE",
    )
    store_path: Path | None = Field(
        default=None, description="folder where STOW-RS stores files, made if absent and served like a root; none: 403"
    )
    max_store_bytes: int = Field(default=64 * 1024 * MIB, ge=1, description="largest body of a store request [byte]")
    max_store_instance_bytes: int = Field(
        default=16 * 1024 * MIB, ge=1, description="largest file that is stored [byte]"
    )
    max_store_instances: int = Field(default=10_000, ge=1, description="most files in one store request")
    rescan_interval_s: float = Field(
        default=300.0, ge=0, description="time between scans for changed files [s]; 0: scan at start only"
    )
    scan: bool = Field(default=True, description="look for files; false: another process does, and fills the index")
    index_shared: bool = Field(
        default=False, description="use an index file that a supervisor has made for several processes"
    )
    backend: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="which device renders")
    device: int = Field(default=0, ge=0, description="number of the CUDA device")
    workers: int = Field(default=min(os.cpu_count() or 1, 16), ge=1, le=256, description="decoder processes")
    cache_bytes: int = Field(default=1024 * MIB, ge=0, description="budget for decoded frames [byte]")
    device_cache_percent: int = Field(
        default=70, ge=0, le=95, description="budget for frames on the device, of its memory that is free at start [%]"
    )
    gpu_decode: Literal["auto", "off"] = Field(
        default="auto", description="whether the GPU decodes what is proven of its codec; off: the CPU decodes"
    )
    proof_path: Path | None = Field(
        default=None, description="proof table of gpu-render prove; none: the one that is shipped"
    )
    reencode_path: Path | None = Field(
        default=None, description="folder for copies of JPEG 2000 and JPEG XL that decode faster; none: none are made"
    )
    reencode_bytes: int = Field(default=8192 * MIB, ge=0, description="budget for such copies [byte]; 0: none are made")
    queue_capacity: int = Field(default=1024, ge=1, description="jobs that may wait; the next one gets a 503")
    lookahead_frames: int = Field(
        default=16, ge=0, le=1024, description="frames decoded ahead of somebody who scrolls; 0: none"
    )
    stream_bytes: int = Field(
        default=256 * MIB, ge=0, description="frames that answers of many frames may have ahead together [byte]"
    )
    answer_bytes: int = Field(
        default=256 * MIB, ge=0, description="parts of answers that readers have not taken yet, together [byte]"
    )
    stall_limit_s: float = Field(
        default=60.0, gt=0, description="longest that a connection may stand still in a request or an answer [s]"
    )
    wire_encoding: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="bodies of arrays with a content coding; auto: for clients whose line was measured to be slow",
    )
    wire_fast_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")),
        description='networks whose clients always have a fast line, JSON list such as ["10.0.0.0/8"]',
    )
    max_batch: int = Field(default=32, ge=1, le=4096, description="frames rendered in one launch")
    max_frame_bytes: int = Field(default=1024 * MIB, ge=1, description="largest decoded frame [byte]")
    max_frames: int = Field(default=10_000_000, ge=1, description="most frames in one SOP Instance")
    annotation_font: FilePath | None = Field(
        default=None, description="font file for annotations; none: one that knows Latin, Greek and Cyrillic"
    )
    max_viewport: int = Field(default=8192, ge=1, description="longest side of a viewport [px]")
    allowed_hosts: tuple[str, ...] = Field(
        default=("*",),
        description="Host headers that are answered; guards a loopback service against DNS rebinding",
    )
    cors_origins: tuple[str, ...] = Field(
        default=(),
        description="origins whose pages may read answers in a browser, such as https://viewer.example; * alone: all",
    )
    max_search_results: int = Field(
        default=5000, ge=1, le=1_000_000, description="most results of one search; more are asked for with offset"
    )
    benchmark_results: Path | None = Field(
        default=None, description="folder of benchmark results that are answered beside those of this version"
    )
    self_test_token: str | None = Field(
        default=None,
        repr=False,
        description="bearer token for POST /api/benchmarks, 16 characters or more; none: 403",
    )

    @field_validator("self_test_token")
    @classmethod
    def _token(cls, token: str | None) -> str | None:
        """Refuse what can be guessed, or cannot stand in an Authorization header (RFC 6750 section 2.1)."""
        if token is not None and not _TOKEN.fullmatch(token):
            raise ValueError("a token has 16 characters or more: letters, digits, -._~+/ and = at its end")
        return token

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse what no browser ever sends as Origin: it would silently allow nobody."""
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin: scheme://host[:port] in lower case, nothing behind it")
        if "*" in origins and len(origins) > 1:
            raise ValueError("* stands alone: it allows every origin, without credentials")
        return origins
