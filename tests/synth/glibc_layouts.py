"""Where does the loader of each glibc release keep what?

Typed in from include/link.h and sysdeps/generic/ldsodefs.h of each tag; no reader shares this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from dlwhy.tests.fakes import X86_64
from dlwhy.tests.synth.glibc import Layout, Library, Process


def before_2_35(
    opencount: int,
    nodelete: Optional[int],
    map_start: int,
    initfini: int,
    flags_1: int,
    idx: int,
    modid: int,
    dtor_count: Optional[int],
    size: int,
    stride: int,
    *,
    unique: int = 72,
) -> Layout:
    """Give an x86-64 layout of 2.17 to 2.34: l_reldeps behind l_initfini, no l_map_used."""
    kinds = opencount + 4
    return Layout(
        opencount=opencount,
        nodelete=nodelete,
        type_shift=0,
        relocated=(kinds, 2),
        is_global=(kinds, 4),
        map_used=None,
        phdr=opencount - 112,
        entry=opencount - 104,
        phnum=opencount - 96,
        loader=opencount - 56,
        map_start=map_start,
        initfini=initfini,
        reldeps=initfini + 8,
        flags_1=flags_1,
        idx=idx,
        tls_blocksize=modid - 32,
        tls_align=modid - 24,
        tls_offset=modid - 8,
        tls_modid=modid,
        dtor_count=dtor_count,
        relro=(modid if dtor_count is None else dtor_count) + 8,
        size=size,
        ns_stride=stride,
        unique_entries=unique,
    )


def since_2_35(
    opencount: int,
    bit: int,
    map_used: tuple[int, int],
    map_start: int,
    initfini: int,
    reldeps: int,
    flags_1: int,
    idx: int,
    modid: int,
    dtor_count: int,
    size: int,
    stride: int,
) -> Layout:
    """Give an x86-64 layout of 2.35 to 2.43; ``bit`` is l_relocated's."""
    base = before_2_35(opencount, opencount + 7, map_start, initfini, flags_1, idx, modid, dtor_count, size, stride)
    kinds = opencount + 4
    return base._replace(
        relocated=(kinds, bit), is_global=(kinds, bit + 2), map_used=map_used, reldeps=reldeps, unique_entries=80
    )


V217 = before_2_35(784, None, 832, 952, 980, 988, 1096, None, 1128, 144)


V218 = before_2_35(784, None, 832, 952, 980, 988, 1096, 1104, 1136, 144)


V228 = before_2_35(792, None, 840, 960, 988, 996, 1104, 1112, 1144, 144)


V231 = before_2_35(792, 799, 848, 968, 996, 1004, 1112, 1120, 1152, 144)


V232 = before_2_35(792, 799, 848, 968, 996, 1004, 1112, 1120, 1152, 152, unique=80)


V233 = before_2_35(792, 799, 856, 976, 1004, 1012, 1120, 1128, 1160, 152, unique=80)


V235 = since_2_35(792, 2, (797, 1), 856, 976, 984, 1004, 1012, 1120, 1128, 1160, 160)


V235_TIP = since_2_35(792, 2, (797, 1), 856, 976, 992, 1012, 1020, 1128, 1136, 1168, 160)


V236 = since_2_35(816, 3, (821, 2), 880, 1000, 1008, 1028, 1036, 1144, 1152, 1184, 160)


V236_TIP = since_2_35(816, 3, (821, 2), 880, 1000, 1016, 1036, 1044, 1152, 1160, 1192, 160)


V239 = since_2_35(848, 3, (853, 2), 912, 1024, 1032, 1052, 1060, 1168, 1176, 1208, 160)


V242 = V239._replace(ns_stride=112)
#: What a process needs besides that goes on while it is traced; _rtld_global_ro is that of 2.40.
V240_LIVE = V239._replace(
    nodelete_pending=856,
    init_called=(852, 4),
    removed=(854, 2),
    auditing=(854, 0),
    load_lock=2568,
    serial=1200,
    load_adds=2688,
    open_close=(864, 872),
)


I386_227 = Layout(
    opencount=400,
    nodelete=None,
    type_shift=0,
    relocated=(404, 2),
    is_global=(404, 4),
    map_used=None,
    phdr=336,
    entry=340,
    phnum=344,
    loader=364,
    map_start=428,
    initfini=496,
    reldeps=500,
    flags_1=516,
    idx=524,
    tls_blocksize=564,
    tls_align=568,
    tls_offset=576,
    tls_modid=580,
    dtor_count=584,
    relro=588,
    size=604,
    ns_stride=76,
    unique_entries=40,
)


S390X_241 = Layout(
    opencount=824,
    nodelete=831,
    type_shift=6,
    relocated=(828, 4),
    is_global=(828, 2),
    map_used=(829, 5),
    phdr=704,
    entry=712,
    phnum=720,
    loader=760,
    map_start=880,
    initfini=992,
    reldeps=1000,
    flags_1=1020,
    idx=1028,
    tls_blocksize=1096,
    tls_align=1104,
    tls_offset=1120,
    tls_modid=1128,
    dtor_count=1136,
    relro=1144,
    size=1168,
    ns_stride=160,
    unique_entries=80,
)


_RTLD_GLOBAL_SIZES = {V235: 4304, V236: 4328, V236_TIP: 4336}


#: What an answer says if thread 4711 holds the loader's lock, and its registers are not known.
LOCK_IS_HELD = (
    "thread 4711 holds the loader's lock: it can be inside dlopen or dlclose, and the state in motion "
    "(dlsym, dladdr and dl_iterate_phdr take it, too)"
)


def process_of(libraries: Sequence[Library], version: tuple[int, int] = (2, 40), layout: Layout = V239) -> Process:
    """Make a process of the main program, libc, ld.so and these libraries."""
    start = [Library("main", type=0), Library("libc.so.6", type=1, tls_size=0x90), Library("ld.so", type=1)]
    return Process(
        X86_64,
        layout,
        [*start, *libraries],
        rtld_global_size=_RTLD_GLOBAL_SIZES.get(layout, 4352),
        version=version,
        exports_descriptors=True,
        mangles=True,
    )
