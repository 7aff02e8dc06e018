"""Builds the C engine with the pinned `ziglang` wheel. Standard library only, so that it can serve as a build step of `pip install`.

How to think
- A kernel family is one C file, compiled once for each instruction set of the target; loader and host are compiled once. Objects are kept under a hash of everything that went into them.
- The library of a development checkout lies in `.cache/engine/<hash>/`; building again costs the hashing. A wheel carries it in `engine/lib/`.
- A WebAssembly module is a library like any other, linked by wasm-ld (WASM.md says how a host uses one). Its kernels are compiled once for the module without threads and the one with them.
- `python -m sardonyx.engine.build [TARGET…]` builds (this machine's without a name; `wasm`: all four modules) and prints where the libraries are.
"""
from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

ZIG = "0.17.1"
SOURCE = Path(__file__).resolve().parent / "src"
PACKAGED = Path(__file__).resolve().parent / "lib"
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "engine"

#: Compiled once, with the target's host_*.c; every other C file is a kernel family or a part of one and is compiled once per instruction set.
CORE = ("loader", "verify", "check", "check_data", "simplify", "package", "session", "session_grow", "session_loop", "session_memory", "text")

COMMON = ("-std=c17", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast-honor-pragmas",
          "-fno-math-errno", "-fno-trapping-math", "-fwrapv", "-fno-stack-protector", "-ffunction-sections",
          "-fdata-sections", "-Wall", "-Wextra", "-Wno-unused-function", "-Wno-sign-compare", "-Wno-psabi", "-fno-sanitize=all", "-DNDEBUG")


@dataclass(frozen=True)
class Target:
    """What a library is built for. `isas`: instruction sets, best first, with their flags. `flags`: for every unit; `core_flags`: for what is compiled once. `small`: units compiled for size,
    by name or, for one instruction set, as "family-isa"; `explicit`: those whose vectors are all written out, so that no loop at an edge is made into vectors."""

    triple: str
    isas: tuple[tuple[str, tuple[str, ...]], ...]
    library: str
    host: str = "host_posix"
    flags: tuple[str, ...] = ()
    core_flags: tuple[str, ...] = ()
    small: frozenset[str] = frozenset()
    explicit: frozenset[str] = frozenset()
    linker: str = "cc"
    link: tuple[str, ...] = ("-shared", "-s")


_X86 = (
    ("avx512", ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx2", "-mfma", "-mf16c", "-mbmi2", "-mprefer-vector-width=512")),
    ("avx2", ("-mavx2", "-mfma", "-mf16c", "-mbmi2")),
    ("sse", ("-msse4.2", "-mpopcnt")),
)
_ARM = (
    ("i8mm", ("-mcpu=generic+dotprod+i8mm",)),
    ("dotprod", ("-mcpu=generic+dotprod",)),
    ("neon", ()),
)
_LINUX = ("-shared", "-Wl,--gc-sections", "-Wl,-z,defs", "-lpthread", "-s")
#: Families no model spends its time in.
_RARE = frozenset({"compact", "fft", "linalg", "random", "sample", "scan", "scatter", "sort"})
#: What runs once a session; and what is rare where machines are rare: x86 without AVX2.
_SMALL = frozenset({"verify", "check", "check_data", "simplify", "package", "text", "table"}) | {f"{family}-sse" for family in _RARE | {"resize", "trees"}}
TARGETS = {
    ("linux", "x86_64"): Target("x86_64-linux-gnu.2.17", _X86, "libsardonyx.so", small=_SMALL, link=_LINUX),
    ("linux", "aarch64"): Target("aarch64-linux-gnu.2.17", _ARM, "libsardonyx.so", small=_SMALL, link=_LINUX),
    ("darwin", "x86_64"): Target("x86_64-macos", _X86, "libsardonyx.dylib", small=_SMALL),
    ("darwin", "arm64"): Target("aarch64-macos", _ARM, "libsardonyx.dylib", small=_SMALL),
    ("win32", "x86_64"): Target("x86_64-windows-gnu", _X86, "sardonyx.dll", host="host_win32", small=_SMALL),
}
#: What wheels with a native engine are made for: name → (key of TARGETS, platform tag).
WHEELS = {
    "linux-x86_64": (("linux", "x86_64"), "manylinux_2_17_x86_64"), "linux-aarch64": (("linux", "aarch64"), "manylinux_2_17_aarch64"),
    "macos-x86_64": (("darwin", "x86_64"), "macosx_11_0_x86_64"), "macos-arm64": (("darwin", "arm64"), "macosx_11_0_arm64"), "windows-x86_64": (("win32", "x86_64"), "win_amd64"),
}

#: Memory a module with threads may grow to; one without may take all 4 GB.
WASM_SHARED_BYTES = 4 << 30
_SIMD = ("simd128", ("-msimd128",))
_RELAXED = ("relaxed", ("-msimd128", "-mrelaxed-simd"))
_WASM = ("--no-entry", "--export-dynamic", "--export=__stack_pointer", "--gc-sections", "-O2", "--stack-first", "-z", "stack-size=1048576", "-s")
_THREADS = ("--shared-memory", "--import-memory", f"--max-memory={WASM_SHARED_BYTES}")
#: Compiled for size: what runs once a session or a step, and families no model spends its time in.
_COLD = frozenset(CORE) | _RARE | {"copy", "host_wasm", "table", "matmul", "matmul_int", "pool", "resize", "trees"}
_EXPLICIT = frozenset({"conv", "conv_narrow", "conv_rows", "depthwise", "depthwise_int", "finish", "gemm", "gemm_int", "winograd"})


def _wasm(isa: tuple[str, tuple[str, ...]], threads: bool) -> Target:
    """A module. Atomics are allowed in every unit, so that kernels can be linked into both; extended constants are not, because node 20 refuses them."""
    name = f"sardonyx-{isa[0]}{'-threads' if threads else ''}.wasm"
    # Without loop strength reduction loads keep their constant offsets: 4 % fewer bytes, and kernels up to a tenth faster.
    flags = ("-fno-pic", "-fno-unroll-loops", "-fno-slp-vectorize", "-mllvm", "-inline-threshold=40", "-mllvm", "-disable-lsr", "-fno-wrapv-pointer", "-mno-extended-const",
             "-mbulk-memory", "-matomics")
    core = ("-msimd128", "-DSX_SHARED") if threads else ("-msimd128",)
    return Target("wasm32-freestanding", (isa,), name, host="host_wasm", flags=flags, core_flags=core, small=_COLD, explicit=_EXPLICIT, linker="wasm-ld", link=_WASM + (_THREADS if threads else ()))


TARGETS |= {("wasm", isa[0] + ("-threads" if threads else "")): _wasm(isa, threads) for isa in (_SIMD, _RELAXED) for threads in (False, True)}


_INCLUDE = re.compile(rb'^\s*#\s*include\s+"([^"]+)"', re.M)


class BuildError(RuntimeError):
    """The engine can not be built; the message has the compiler's words or the command that helps."""


def host_target() -> Target:
    """The target of this machine."""
    target = TARGETS[_host()]
    wanted = os.environ.get("SARDONYX_ISAS", "").split(",")  # development: build for some instruction sets only, "avx512" or "avx512,avx2"
    return replace(target, isas=tuple(isa for isa in target.isas if isa[0] in wanted) or target.isas)


def _host() -> tuple[str, str]:
    key = (sys.platform, {"AMD64": "x86_64"}.get(platform.machine(), platform.machine()))
    if key not in TARGETS:
        raise BuildError(f"the C engine is not built for {key[0]} on {key[1]} yet; the reference provider works there")
    return key


def host_wheel() -> str:
    """The row of WHEELS for this machine."""
    return next(name for name, (key, _) in WHEELS.items() if key == _host())


def wheel_files(name: str, wasm: bool) -> list[Path]:
    """What a wheel for this row of WHEELS carries in engine/lib: the library, and the WebAssembly modules where wanted."""
    return [build(target) for target in (TARGETS[WHEELS[name][0]], *(named("wasm") if wasm else ()))]


def compiler(tool: str = "cc") -> list[str]:
    """The command that starts the C compiler, or another tool of the ziglang wheel."""
    if importlib.util.find_spec("ziglang") is None:
        raise BuildError(f"building the C engine needs the ziglang wheel: pip install ziglang=={ZIG}")
    return [sys.executable, "-m", "ziglang", tool]


def units(target: Target) -> list[tuple[str, Path, tuple[str, ...]]]:
    """(object name, source, flags) of everything to compile."""
    core = (*CORE, target.host)
    present = tuple(sorted(p.stem for p in SOURCE.glob("*.c") if p.stem not in CORE and not p.stem.startswith("host_")))
    listed = " ".join(f"X({name})" for name, _ in target.isas)
    made: list[tuple[str, Path, tuple[str, ...]]] = [(name, SOURCE / f"{name}.c", (*target.flags, *_size(target, name), *target.core_flags, f"-DSX_ISAS_X={listed}")) for name in core]
    having = tuple(f"-DSX_WITH_{f}" for f in present)
    for isa, flags in target.isas:
        made += [(f"{family}-{isa}", SOURCE / f"{family}.c", (*target.flags, *_size(target, family, isa), *flags, f"-DSX_ISA={isa}", *(having if family == "table" else ()))) for family in present]
    return made


def _size(target: Target, unit: str, isa: str = "") -> tuple[str, ...]:
    return ("-Oz",) if unit in target.small or f"{unit}-{isa}" in target.small else ("-fno-vectorize",) if unit in target.explicit else ()


def _digest(*parts: bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.hexdigest()[:16]


Unit = tuple[str, Path, tuple[str, ...]]  # name of the object, source, flags of its own


def compile_units(target: Target, units: list[Unit], extra: tuple[str, ...] = (), verbose: bool = False) -> list[Path]:
    """The objects of these units; those there are of the same sources, headers and flags are not made again. Raises BuildError with the compiler's output."""
    common = tuple(flag for flag in COMMON if not (flag == "-fno-sanitize=all" and any(e.startswith("-fsanitize") for e in extra)))  # it would win whatever comes after it
    base = (ZIG.encode(), repr((target.triple, common, extra)).encode())
    objects = CACHE / "objects"
    objects.mkdir(parents=True, exist_ok=True)

    def compile_unit(unit: Unit) -> Path:
        name, source, flags = unit
        made = objects / f"{name}-{_digest(*base, *_sources(source), repr(flags).encode())}.o"
        if not made.exists():
            part = made.with_suffix(f".{os.getpid()}.o")
            _run([*compiler(), "-target", target.triple, *common, *extra, *flags, "-c", str(source), "-o", str(part)], verbose)
            part.replace(made)
        return made

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(compile_unit, units))


def link(target: Target, objects: list[Path], name: str, options: tuple[str, ...], verbose: bool = False) -> Path:
    """The objects linked under `name`, in a folder of their own; equal ones are linked once."""
    made = CACHE / _digest(repr((target.triple, options)).encode(), *(o.name.encode() for o in objects)) / name
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        part = made.with_suffix(f".{os.getpid()}")
        command = compiler("wasm-ld") if target.linker == "wasm-ld" else [*compiler(), "-target", target.triple]
        _run([*command, *map(str, objects), *options, "-o", str(part)], verbose)
        part.replace(made)
    return made


def build(target: Target | None = None, extra: tuple[str, ...] = (), verbose: bool = False) -> Path:
    """The library's path; compiles what has changed. Raises BuildError with the compiler's output. `extra`: further flags (sanitizers)."""
    target = target or host_target()
    options = tuple(option for option in (*extra, *target.link) if not (extra and option == "-s"))
    return link(target, compile_units(target, units(target), extra, verbose), target.library, options, verbose)


def _sources(source: Path) -> list[bytes]:
    """A file's text and that of all our headers it includes, directly or not."""
    found: dict[Path, bytes] = {}
    ahead = [source]
    while ahead:
        path = ahead.pop()
        if path not in found and path.exists():
            found[path] = path.read_bytes()
            ahead += [SOURCE / name.decode() for name in _INCLUDE.findall(found[path])]
    return [part for path in sorted(found) for part in (path.name.encode(), found[path])]


def _run(command: list[str], verbose: bool) -> None:
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(CACHE / "zig"), "ZIG_LOCAL_CACHE_DIR": str(CACHE / "zig")}
    if verbose:
        print(" ".join(command))
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"compiling the C engine failed:\n{' '.join(command)}\n{done.stderr}")
    if done.stderr and verbose:
        print(done.stderr)


def find(target: Target | None = None) -> Path:
    """The library to load: the wheel's, or in a checkout the one built from the sources as they are. Without a target: this machine's."""
    target = target or host_target()
    packaged = PACKAGED / target.library
    return packaged if packaged.exists() else build(target)


def named(name: str) -> list[Target]:
    """The targets a name of the command line means: `wasm`, `wasm-simd128`, `linux-x86_64` …"""
    found = [target for key, target in TARGETS.items() if name in (key[0], "-".join(key))]
    if not found:
        raise BuildError(f"no target is named '{name}'; there are {', '.join('-'.join(key) for key in TARGETS)}")
    return found


if __name__ == "__main__":
    for wanted in [t for name in sys.argv[1:] if not name.startswith("-") for t in named(name)] or [host_target()]:
        began = time.perf_counter()
        path = build(wanted, verbose="-v" in sys.argv)
        print(f"{path}  {path.stat().st_size:,} bytes  {time.perf_counter() - began:.1f} s")
