"""Which keys and types do documents have?  As in ``common/data/schema/dlwhy-1.schema.json``, which says what they mean.

`tests/unit/test_json_types.py` compares both, key by key.
"""

from __future__ import annotations

from typing import Optional, TypedDict, Union

#: Two addresses, [start, end).
Range = list[str]


class TargetDocument(TypedDict):
    kind: str
    os: str
    arch: str
    pid: Optional[int]
    description: str


class LoaderLayoutDocument(TypedDict):
    source: str
    detail: str


class LoaderDocument(TypedDict):
    kind: Optional[str]
    version: Optional[str]
    layout: Optional[LoaderLayoutDocument]


class ProblemDocument(TypedDict):
    where: str
    message: str


class EnvelopeHead(TypedDict):
    schema: str
    command: str
    target: TargetDocument
    loader: LoaderDocument


class Envelope(EnvelopeHead):
    problems: list[ProblemDocument]


class PlaceDocument(TypedDict):
    base: Optional[str]
    load_bias: Optional[str]
    range: Optional[Range]


class ReferenceDocument(PlaceDocument):
    name: str
    path: Optional[str]
    namespace: int
    link_map: str


class InstanceDocument(ReferenceDocument):
    build_id: Optional[str]


class EventThreadDocument(TypedDict):
    tid: int


class _SiteDocument(TypedDict):
    address: str
    library: Optional[str]
    function: Optional[str]
    line: Optional[str]


class SiteDocument(_SiteDocument, total=False):
    through: str  # if a library only passed the call on


class MomentDocument(TypedDict):
    number: int
    time_seconds: float
    thread: Optional[EventThreadDocument]
    caller: Optional[SiteDocument]
    within_event: Optional[int]
    at_exit: bool
    raced: bool


class AnyEventDocument(MomentDocument):
    event: str
    initiated_by: str
    library: Optional[InstanceDocument]


class OpenDocument(AnyEventDocument):
    requested: Optional[str]
    flags: int
    requested_namespace: int
    result: Optional[str]
    error: Optional[str]
    errno: Optional[int]
    loaded: Optional[list[InstanceDocument]]
    unloaded: Optional[list[InstanceDocument]]
    static_tls: Optional[StaticTlsDocument]


class EvidenceDocument(TypedDict):
    address: str
    expression: str
    value: int


class ThreadDocument(TypedDict):
    tid: int
    name: Optional[str]


class FunctionDocument(TypedDict):
    address: Optional[str]
    name: Optional[str]
    library: Optional[str]


class DestructorDocument(TypedDict):
    thread: Optional[ThreadDocument]
    function: FunctionDocument
    object: str
    variable: Optional[str]


class RootDocument(TypedDict):
    library: str
    kinds: list[str]
    opened_by: Optional[str]


class _HoldDocument(TypedDict):
    kind: str
    evidence: list[EvidenceDocument]


class HoldDocument(_HoldDocument, total=False):
    # the keys that its kind has
    origin: Optional[str]
    count: int
    opened_by: str
    symbols: list[str]
    symbols_omitted: int
    dlclose_returns_early: Optional[bool]
    destructors: list[DestructorDocument]
    chain: list[str]
    root: RootDocument


class FixDocument(TypedDict):
    fix: str
    library: str
    symbols: list[str]
    symbols_omitted: int
    bound_by: list[str]
    ways: list[str]


class ObstacleDocument(TypedDict):
    kind: str
    library: str


class RebuildDocument(TypedDict):
    fixes: list[FixDocument]
    obstacle: Optional[ObstacleDocument]


class KeptLibraryDocument(ReferenceDocument):
    held: Optional[bool]
    holds: list[HoldDocument]
    holds_omitted: int


class CloseDocument(AnyEventDocument):
    handle: Optional[str]
    open_count_before: Optional[int]
    predicted_outcome: Optional[str]
    predicted_unloads: Optional[list[str]]
    predicted_by_nested_closes: Optional[list[str]]
    predicted_for_outer_close: Optional[list[str]]
    may_unload_more: Optional[list[str]]
    kept: Optional[list[KeptLibraryDocument]]
    unloaded: Optional[list[InstanceDocument]]
    predicted_but_kept: Optional[list[str]]
    unloaded_but_not_predicted: Optional[list[str]]
    predicted_exactly: Optional[bool]


class PinDocument(AnyEventDocument):
    origin: Optional[str]
    symbols: Optional[list[str]]
    symbols_omitted: int
    looked_up_by: Optional[list[str]]


class TlsRegistrationDocument(AnyEventDocument):
    destructor: Optional[SiteDocument]
    object: str
    destructor_elsewhere: Optional[bool]


class DescriptorLeakDocument(AnyEventDocument):
    descriptor: int
    descriptor_target: str
    opened_at: Optional[list[Optional[SiteDocument]]]


EventDocument = Union[OpenDocument, CloseDocument, PinDocument, TlsRegistrationDocument, DescriptorLeakDocument]


class DllInstanceDocument(TypedDict):
    name: str
    path: Optional[str]
    base: str
    range: Optional[Range]
    ldr_entry: Optional[str]
    timestamp: Optional[int]


class AnyDllEventDocument(MomentDocument):
    event: str
    library: Optional[DllInstanceDocument]


class DllOpenDocument(AnyDllEventDocument):
    ntdll_function: str
    requested: Optional[str]
    flags: Optional[int]
    result: Optional[str]
    ntstatus: Optional[str]
    loaded: Optional[list[DllInstanceDocument]]
    unloaded: Optional[list[DllInstanceDocument]]
    load_count_before: Optional[int]
    load_count_after: Optional[int]


class DllReferenceDocument(TypedDict):
    name: str
    path: Optional[str]
    base: Optional[str]
    range: Optional[Range]
    loader: str
    ldr_entry: Optional[str]


class DllHoldRootDocument(TypedDict):
    library: str
    kinds: list[str]


class _DllHoldDocument(TypedDict):
    kind: str
    evidence: list[EvidenceDocument]


class LoadHolderDocument(TypedDict):
    kind: str
    address: str
    thread: Optional[ThreadDocument]
    library: Optional[str]
    runtime: Optional[str]
    frees_itself: Optional[bool]


class DllHoldDocument(_DllHoldDocument, total=False):
    # the keys that its kind has
    origin: Optional[str]
    chain: list[str]
    count: Optional[int]
    holders: Optional[list[LoadHolderDocument]]
    root: Optional[DllHoldRootDocument]


class DllVerdictDocument(TypedDict):
    held: Optional[bool]
    holds: list[DllHoldDocument]
    holds_omitted: int


class KeptDllDocument(DllReferenceDocument, DllVerdictDocument):
    pass


class DllCloseDocument(AnyDllEventDocument):
    load_count_before: Optional[int]
    load_count_after: Optional[int]
    ntstatus: Optional[str]
    predicted_outcome: Optional[str]
    refusal: Optional[str]
    predicted_unloads: Optional[list[str]]
    may_unload_more: Optional[list[str]]
    kept: Optional[list[KeptDllDocument]]
    unloaded: Optional[list[DllInstanceDocument]]
    unloaded_by_nested_closes: Optional[list[str]]
    predicted_but_kept: Optional[list[str]]
    unloaded_but_not_predicted: Optional[list[str]]
    predicted_exactly: Optional[bool]
    got_process_detach: Optional[list[str]]


class DllPinDocument(AnyDllEventDocument):
    ntdll_function: str


DllEventDocument = Union[DllOpenDocument, DllCloseDocument, DllPinDocument]


class _LibraryDocument(PlaceDocument):
    name: str
    path: Optional[str]
    soname: Optional[str]
    build_id: Optional[str]
    namespace: int
    link_map: Optional[str]
    proxy: bool
    fields: dict[str, Optional[int]]
    held: Optional[bool]
    holds: list[HoldDocument]
    holds_omitted: int
    file_state: Optional[str]


class LibraryDocument(_LibraryDocument, total=False):
    rebuild: Optional[RebuildDocument]  # of libraries that were asked about


class StaticTlsPieceDocument(TypedDict):
    library: str
    size: int


class StaticTlsDocument(TypedDict):
    size: int
    free: int
    held: list[StaticTlsPieceDocument]
    lost: int


class DlstateDocument(Envelope):
    libraries: list[LibraryDocument]
    static_tls: Optional[StaticTlsDocument]


class CloserDocument(TypedDict):
    library: str
    way: Optional[str]
    through: Optional[FunctionDocument]


class ThreadInsideDocument(TypedDict):
    library: str
    link_map: str
    thread: ThreadDocument
    certain: bool


class PlanDocument(TypedDict):
    library: ReferenceDocument
    open_count: Optional[int]
    close_count: int
    outcome: Optional[str]
    unloads: Optional[list[ReferenceDocument]]
    order_algorithm: Optional[str]
    order_certain: bool
    may_unload_more: Optional[list[str]]
    imports_unread: Optional[list[str]]
    closers: Optional[list[CloserDocument]]
    unload_bytes: Optional[int]
    statics_after_reopen: Optional[str]
    threads_inside: Optional[list[ThreadInsideDocument]]
    threads_unknown: Optional[int]


class StepDocument(TypedDict):
    action: str
    library: str
    link_map: str
    namespace: int
    count: int
    threads: list[ThreadDocument]


class RemedyDocument(TypedDict):
    possible: Optional[bool]
    blocker: Optional[KeptLibraryDocument]
    rebuild: Optional[RebuildDocument]
    steps: list[StepDocument]


class DlplanDocument(Envelope, PlanDocument):
    kept: Optional[list[KeptLibraryDocument]]
    remedy: Optional[RemedyDocument]
    garbage: Optional[list[str]]


class DlplanAllDocument(Envelope):
    plans: list[PlanDocument]
    garbage: Optional[list[str]]


class BreakpointsDocument(TypedDict):
    opens: str
    closes: str


class TotalsDocument(TypedDict):
    opens: int
    opens_failed: int
    closes: int
    closes_that_unloaded: int
    libraries_unloaded: int
    closes_that_kept: int
    closes_predicted_exactly: int
    closes_nested: int
    closes_raced: int
    closes_mispredicted: int
    end_not_seen: int
    opens_unseen: int
    closes_unseen: int
    closes_compared: int
    closes_not_predicted: int
    opens_not_loaded: int


class CallsDocument(TypedDict):
    caller: Optional[SiteDocument]
    initiated_by: str
    count: int


class LibraryTotalsDocument(TypedDict):
    name: str
    path: Optional[str]
    namespace: int
    open_count_at_start: Optional[int]
    opens_by_caller: list[CallsDocument]
    closes_by_caller: list[CallsDocument]
    closes_without_effect: int
    open_count_now: Optional[int]
    loaded_now: Optional[bool]


class DltraceKeptDocument(KeptLibraryDocument):
    times_kept: int
    last_event: int


class DltraceDocument(Envelope):
    watching: bool
    end_reason: Optional[str]
    duration_seconds: float
    filter: list[str]
    breakpoints: BreakpointsDocument
    totals: TotalsDocument
    library_totals: list[LibraryTotalsDocument]
    kept: list[DltraceKeptDocument]
    closes_mispredicted: list[EventDocument]
    closes_not_open: list[EventDocument]
    opens_failed: list[EventDocument]
    pins: list[EventDocument]
    tls_registrations: list[EventDocument]
    descriptor_leaks: list[EventDocument]
    end_not_seen: list[EventDocument]


class DllRuleDocument(TypedDict):
    loader: str
    rule: str
    reason: str


class DllListPositionsDocument(TypedDict):
    load: Optional[int]
    memory: Optional[int]
    initialization: Optional[int]


class DllDocument(DllReferenceDocument, DllVerdictDocument):
    load_count: Optional[int]
    loadlibrary_count: Optional[int]
    ddag_node: Optional[str]
    list_positions: DllListPositionsDocument
    fields: dict[str, Optional[int]]
    load_reason: Optional[str]
    ddag_state: Optional[str]
    first_loaded_by: Optional[str]
    imports: Optional[list[str]]
    importers: Optional[list[str]]
    import_cycle: Optional[list[str]]


class DllstateDocument(Envelope):
    rules: list[DllRuleDocument]
    process_exiting: Optional[bool]
    loader_lock_owner: Optional[int]
    libraries: list[DllDocument]


class DyingDllDocument(DllReferenceDocument):
    gets_process_detach: bool


class ImportCycleAlternativeDocument(TypedDict):
    library: str
    would_unload: list[str]
    would_pin: list[str]


class DllStepDocument(TypedDict):
    action: str
    library: str
    count: int


class DllRemedyDocument(TypedDict):
    possible: bool
    blocker: Optional[KeptDllDocument]
    steps: list[DllStepDocument]


class DllPredictionDocument(TypedDict):
    library: DllReferenceDocument
    rule: str
    load_count: Optional[int]
    loadlibrary_count: Optional[int]
    load_count_after: Optional[int]
    close_count: int
    excess_closes: Optional[int]
    outcome: Optional[str]
    refusal: Optional[str]
    unloads: Optional[list[DyingDllDocument]]
    order_algorithm: Optional[str]
    order_certain: bool
    may_unload_more: Optional[list[str]]
    unload_bytes: Optional[int]


class DllplanAllDocument(Envelope):
    rules: list[DllRuleDocument]
    plans: list[DllPredictionDocument]


class DllplanDocument(Envelope, DllPredictionDocument):
    rules: list[DllRuleDocument]
    import_cycles: Optional[list[list[str]]]
    import_cycle_alternatives: Optional[list[ImportCycleAlternativeDocument]]
    kept: Optional[list[KeptDllDocument]]
    remedy: Optional[DllRemedyDocument]
    load_holders: Optional[list[LoadHolderDocument]]


class PointerDocument(TypedDict):
    thread: ThreadDocument
    value: str
    register: Optional[str]
    address: Optional[str]
    in_exception: bool


class CrashWordDocument(TypedDict):
    role: str
    value: str
    register: Optional[str]
    module: Optional[str]
    offset: Optional[int]
    unloaded: Optional[bool]


class CrashCallerDocument(TypedDict):
    return_address: str
    stack_address: Optional[str]
    module: str
    offset: int


class CrashDocument(TypedDict):
    thread: ThreadDocument
    code: str
    address: str
    access: Optional[str]
    words: list[CrashWordDocument]
    caller: Optional[CrashCallerDocument]


class UnloadedDllDocument(TypedDict):
    name: Optional[str]
    range: Range
    timestamp: int
    checksum: int
    sequence: Optional[int]
    offset: Optional[int]
    confidence: Optional[str]
    sources: list[str]
    pointers: list[PointerDocument]
    pointers_omitted: int


class DllgoneDocument(Envelope):
    address: Optional[str]
    loaded_at_address: Optional[str]
    overwritten_events: Optional[int]
    records: list[str]
    crash: Optional[CrashDocument]
    unloaded: list[UnloadedDllDocument]


class DllCallsDocument(TypedDict):
    caller: Optional[SiteDocument]
    count: int


class DllTotalsDocument(TypedDict):
    name: str
    path: Optional[str]
    loadlibrary_count_at_start: Optional[int]
    opens_by_caller: list[DllCallsDocument]
    closes_by_caller: list[DllCallsDocument]
    closes_without_effect: int
    loadlibrary_count_now: Optional[int]
    loaded_now: Optional[bool]
    pinned_now: Optional[bool]


class DlltraceKeptDocument(KeptDllDocument):
    times_kept: int
    last_event: int


class DlltraceDocument(Envelope):
    rules: list[DllRuleDocument]
    watching: bool
    end_reason: Optional[str]
    duration_seconds: float
    filter: list[str]
    totals: TotalsDocument
    library_totals: list[DllTotalsDocument]
    kept: list[DlltraceKeptDocument]
    closes_mispredicted: list[DllEventDocument]
    opens_failed: list[DllEventDocument]
    pins: list[DllEventDocument]


class FileAccessDocument(TypedDict):
    read: bool
    write: bool
    delete: bool


class FileSharingDocument(TypedDict):
    read: bool
    write: bool
    delete: bool
    enforced: bool


class SectionDocument(TypedDict):
    control_area: str
    kind: str
    section_references: int
    mapped_views: int
    user_references: int
    writable_references: Optional[int]
    in_use: bool


class MappingDocument(TypedDict):
    pid: int
    process_name: str
    range: Range
    vad: Optional[str]
    section_kind: str
    protection: Optional[str]
    commit_pages: Optional[int]
    wow64: bool


class FileObjectDocument(TypedDict):
    file_object: str
    access: FileAccessDocument
    sharing: FileSharingDocument
    access_string: str
    delete_pending: bool


class OpenerDocument(FileObjectDocument):
    pid: int
    process_name: str
    handle: str
    object_kind: str
    granted_access: str


class OperationDocument(TypedDict):
    name: str
    allowed: str
    ntstatus: Optional[str]
    ntstatus_name: Optional[str]
    win32_error: Optional[int]
    win32_error_name: Optional[str]
    reason: str


class MappedFileDocument(TypedDict):
    file_name: Optional[str]
    file_name_source: Optional[str]
    image_bytes: Optional[int]
    timestamp: Optional[int]
    link_time: Optional[int]
    file_name_address: Optional[str]
    device_object: Optional[str]
    control_area: Optional[str]
    file_object: Optional[str]
    access: Optional[FileAccessDocument]
    sharing: Optional[FileSharingDocument]
    access_string: Optional[str]
    delete_pending: Optional[bool]
    fast_ref: Optional[int]
    section_kind: Optional[str]
    sections: list[SectionDocument]
    mappings: list[MappingDocument]
    openers: list[OpenerDocument]
    operations: list[OperationDocument]
    evidence: list[EvidenceDocument]


class DllshareDocument(Envelope):
    files: list[MappedFileDocument]
    handles_complete: bool
