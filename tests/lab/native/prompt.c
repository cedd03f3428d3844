/* A debugger's prompt on the real dbgeng.dll, as cdb has one: no package registry has cdb.
 *
 *   prompt.exe -z DUMP       open a dump
 *   prompt.exe -o PROGRAM    start a program (a command line) and stop at its initial breakpoint
 *   prompt.exe -p PID        attach to a process
 *   -d before one of these   show DML as it comes, where otherwise the engine makes plain text of it
 *
 * Each line of standard input is a command, in UTF-8; what it prints ends with a line that holds one byte 4.  A command
 * that lets the target run is over at the next event, or when the target has ended.  The exit status is 2 when nothing can
 * be opened. */
#define INITGUID
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>
#include <dbgeng.h>

enum { WAIT_MILLISECONDS = 120000, LINE_SIZE = 65536 };

/* IDebugOutputCallbacks2, which mingw's header lacks (Microsoft's dbgeng.h, Windows SDK). */
static const IID second_interface = {0x67721fe9, 0x56d2, 0x4a44, {0xa3, 0x25, 0x2b, 0x65, 0x51, 0x3c, 0xe6, 0xeb}};
enum { INTEREST_IN_DML = 4, OUTPUT_IS_DML = 1 };
typedef struct Callbacks Callbacks;
typedef struct {
    HRESULT(STDMETHODCALLTYPE *QueryInterface)(Callbacks *, REFIID, void **);
    ULONG(STDMETHODCALLTYPE *AddRef)(Callbacks *);
    ULONG(STDMETHODCALLTYPE *Release)(Callbacks *);
    HRESULT(STDMETHODCALLTYPE *Output)(Callbacks *, ULONG, PCSTR);
    HRESULT(STDMETHODCALLTYPE *GetInterestMask)(Callbacks *, ULONG *);
    HRESULT(STDMETHODCALLTYPE *Output2)(Callbacks *, ULONG, ULONG, ULONG64, PCWSTR);
} Methods;
struct Callbacks {
    const Methods *methods;
};

static int wants_dml;

/* The engine asks for the second interface and calls its methods, if it gets it: only with -d. */
static HRESULT STDMETHODCALLTYPE query(Callbacks *self, REFIID id, void **result)
{
    int known = IsEqualGUID(id, &IID_IUnknown) || IsEqualGUID(id, &IID_IDebugOutputCallbacks)
        || (wants_dml && IsEqualGUID(id, &second_interface));
    *result = known ? self : NULL;
    return known ? S_OK : E_NOINTERFACE;
}

static ULONG STDMETHODCALLTYPE count_reference(Callbacks *self)
{
    (void)self;
    return 1;
}

static HRESULT STDMETHODCALLTYPE output(Callbacks *self, ULONG mask, PCSTR text)
{
    (void)self;
    (void)mask;
    fputs(text, stdout);
    return S_OK;
}

static HRESULT STDMETHODCALLTYPE interest(Callbacks *self, ULONG *mask)
{
    (void)self;
    *mask = INTEREST_IN_DML;
    return S_OK;
}

static HRESULT STDMETHODCALLTYPE output_wide(Callbacks *self, ULONG which, ULONG flags, ULONG64 argument, PCWSTR text)
{
    static char narrow[4 * LINE_SIZE];
    (void)self;
    (void)flags;
    (void)argument;
    if (which == OUTPUT_IS_DML && text && WideCharToMultiByte(CP_UTF8, 0, text, -1, narrow, sizeof narrow, NULL, NULL))
        fputs(narrow, stdout);
    return S_OK;
}

static const Methods methods = {query, count_reference, count_reference, output, interest, output_wide};
static Callbacks callbacks = {&methods};

static void fail(const char *what, HRESULT status)
{
    printf("%s: %#lx\n", what, status);
    fflush(stdout);
    TerminateProcess(GetCurrentProcess(), 2);
}

/* Run the target while a command has it run; tell whether there still is one. */
static int wait_until_stopped(IDebugControl *control)
{
    ULONG status = DEBUG_STATUS_BREAK;
    while (!control->lpVtbl->GetExecutionStatus(control, &status) && status != DEBUG_STATUS_BREAK) {
        if (status == DEBUG_STATUS_NO_DEBUGGEE || control->lpVtbl->WaitForEvent(control, 0, WAIT_MILLISECONDS) != S_OK)
            return 0;
    }
    return 1;
}

int main(int count, char **arguments)
{
    static char line[LINE_SIZE];
    HMODULE engine = LoadLibraryA("dbgeng.dll");
    HRESULT(WINAPI * create)(REFIID, void **) = NULL;
    IDebugClient *client;
    IDebugControl *control;
    HRESULT status;
    if (engine)
        create = (HRESULT(WINAPI *)(REFIID, void **))(void *)GetProcAddress(engine, "DebugCreate");
    if (!create)
        fail("dbgeng.dll", HRESULT_FROM_WIN32(GetLastError()));
    if (count > 1 && !strcmp(arguments[1], "-d")) {
        wants_dml = 1;
        count--;
        arguments++;
    }
    if (count != 3)
        fail("usage: prompt [-d] -z DUMP | -o PROGRAM | -p PID", E_INVALIDARG);
    if ((status = create(&IID_IDebugClient, (void **)&client)))
        fail("DebugCreate", status);
    client->lpVtbl->QueryInterface(client, &IID_IDebugControl, (void **)&control);
    client->lpVtbl->SetOutputCallbacks(client, (IDebugOutputCallbacks *)&callbacks);
    if (!strcmp(arguments[1], "-z")) {
        status = client->lpVtbl->OpenDumpFile(client, arguments[2]);
    } else {
        control->lpVtbl->AddEngineOptions(control, DEBUG_ENGOPT_INITIAL_BREAK);
        if (!strcmp(arguments[1], "-p"))
            status = client->lpVtbl->AttachProcess(client, 0, strtoul(arguments[2], NULL, 0), DEBUG_ATTACH_DEFAULT);
        else
            status = client->lpVtbl->CreateProcess(client, 0, arguments[2], DEBUG_PROCESS);
    }
    if (status)
        fail(arguments[2], status);
    if ((status = control->lpVtbl->WaitForEvent(control, 0, WAIT_MILLISECONDS)))
        fail("WaitForEvent", status);
    for (int alive = 1; puts("\4"), fflush(stdout), alive && fgets(line, sizeof line, stdin);) {
        line[strcspn(line, "\r\n")] = 0;
        status = control->lpVtbl->Execute(control, DEBUG_OUTCTL_THIS_CLIENT, line, DEBUG_EXECUTE_NO_REPEAT);
        if (status)
            printf("[status %#lx]\n", status);
        alive = wait_until_stopped(control);
    }
    client->lpVtbl->EndSession(client, DEBUG_END_PASSIVE);
    fflush(stdout);
    TerminateProcess(GetCurrentProcess(), 0); /* leaving main would unload extensions, and pykd does not survive that */
    return 0;
}
