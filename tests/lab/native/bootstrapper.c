/* A debugger extension whose !py keeps the contract of pykd's bootstrapper (pykd_ext 2.x), which no package registry has.
 *
 *     !py [-g | --global | -l | --local] [-3 | -3.x] SCRIPT [ARGUMENT...]
 *
 * - Words are divided at blanks, "..." groups them; a script's name without ".py" is completed, and looked for on PATH.
 * - Each run has an interpreter of its own but for -g.  sys.argv holds the script and its arguments, sys.path[0] its folder,
 *   __name__ is "__main__" and there is no __file__.
 * - sys.stdout and sys.stderr write to the debugger, and stdout has a writedml, by which pykd.isWindbgExt() knows.
 * - pykd is initialised once, before the first script.  SystemExit is silent, other exceptions print their traceback.
 * - A script that runs !py again is refused.
 *
 * pykd.pyd has a !py too, which passes garbage in sys.argv under Python 3. */
#define INITGUID
#include <stdio.h>
#include <string.h>
#include <windows.h>
#include <dbgeng.h>

typedef struct Object Object;
typedef Object *Function(Object *self, Object *arguments);
typedef struct { const char *name; Function *function; int flags; const char *documentation; } MethodDefinition;

/* mingw's header lacks these of Microsoft's dbgeng.h. */
#define AMBIENT_DML 0xfffffffe
#define AMBIENT_TEXT 0xffffffff

enum { PY_FILE_INPUT = 257, METH_VARARGS = 1, MAX_WORDS = 64, TEXT_SIZE = 16384 };

#define PYTHON_FUNCTIONS(X) \
    X(void, Py_Initialize, (void)) \
    X(void *, Py_NewInterpreter, (void)) \
    X(void, Py_EndInterpreter, (void *)) \
    X(void *, PyEval_SaveThread, (void)) \
    X(void, PyEval_RestoreThread, (void *)) \
    X(void *, PyThreadState_Swap, (void *)) \
    X(int, PyRun_SimpleString, (const char *)) \
    X(Object *, PyRun_String, (const char *, int, Object *, Object *)) \
    X(Object *, PyImport_AddModule, (const char *)) \
    X(Object *, PyModule_GetDict, (Object *)) \
    X(void, PySys_SetArgv, (int, wchar_t **)) \
    X(Object *, PyCFunction_NewEx, (MethodDefinition *, Object *, Object *)) \
    X(int, PyDict_SetItemString, (Object *, const char *, Object *)) \
    X(int, PyArg_ParseTuple, (Object *, const char *, ...)) \
    X(Object *, Py_BuildValue, (const char *, ...)) \
    X(Object *, PyUnicode_FromWideChar, (const wchar_t *, SSIZE_T)) \
    X(void, PyErr_Clear, (void))
#define DECLARE(result, name, parameters) static result(*name) parameters;
PYTHON_FUNCTIONS(DECLARE)

static IDebugControl *control;
static void *main_thread;
static int is_running, is_initialised;

static void say(ULONG kind, const char *text)
{
    control->lpVtbl->ControlledOutput(control, AMBIENT_TEXT, kind, "%s", text);
}

static Object *write_to_debugger(Object *self, Object *arguments)
{
    const char *text;
    int is_dml = 0;
    void *thread;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "s|i", &text, &is_dml))
        return NULL;
    thread = PyEval_SaveThread();
    control->lpVtbl->ControlledOutput(
        control, is_dml ? AMBIENT_DML : AMBIENT_TEXT, DEBUG_OUTPUT_NORMAL, "%s", text);
    PyEval_RestoreThread(thread);
    return Py_BuildValue("");
}

static MethodDefinition write_definition = {"_write_to_debugger", write_to_debugger, METH_VARARGS, NULL};

static const char runner[] =
    "def _run(path, write):\n"
    "    import sys, traceback\n"
    "    class Output:\n"
    "        encoding = 'ascii'\n"
    "        closed = False\n"
    "        def write(self, text): write(text)\n"
    "        def writedml(self, text): write(text, 1)\n"
    "        def flush(self): pass\n"
    "        def isatty(self): return False\n"
    "    sys.stdout = sys.stderr = Output()\n"
    "    try:\n"
    "        with open(path, 'rb') as stream:\n"
    "            code = compile(stream.read(), path, 'exec')\n"
    "        exec(code, {'__name__': '__main__', '__builtins__': __builtins__})\n"
    "    except SystemExit:\n"
    "        pass\n"
    "    except BaseException:\n"
    "        write('\\n\\n' + traceback.format_exc() + '\\n')\n"
    "_run(_script, _write_to_debugger)\n";

static int load_python(void)
{
    HMODULE library;
    if (main_thread)
        return 1;
    if (!(library = LoadLibraryW(L"python39.dll")))
        return 0;
#define FIND(result, name, parameters) \
    if (!(name = (result(*) parameters)(void *)GetProcAddress(library, #name))) \
        return 0;
    PYTHON_FUNCTIONS(FIND)
    Py_Initialize();
    main_thread = PyEval_SaveThread();
    return 1;
}

static int split(const char *text, wchar_t *buffer, wchar_t **words)
{
    static wchar_t wide[TEXT_SIZE];
    const wchar_t *from = wide;
    int count = 0;
    MultiByteToWideChar(CP_ACP, 0, text, -1, wide, TEXT_SIZE);
    while (count < MAX_WORDS - 1) {
        int is_quoted = 0;
        while (*from == L' ' || *from == L'\t')
            from++;
        if (!*from)
            break;
        words[count++] = buffer;
        for (; *from && (is_quoted || (*from != L' ' && *from != L'\t')); from++) {
            if (*from == L'"')
                is_quoted = !is_quoted;
            else
                *buffer++ = *from;
        }
        *buffer++ = 0;
    }
    return count;
}

static void run_script(int count, wchar_t **words, int is_global)
{
    void *own = NULL;
    Object *names;
    is_running = 1;
    PyEval_RestoreThread(main_thread);
    if (!is_initialised)
        is_initialised = !PyRun_SimpleString("import pykd; pykd.initialize()");
    if (!is_global)
        own = Py_NewInterpreter();
    names = PyModule_GetDict(PyImport_AddModule("__main__"));
    PyDict_SetItemString(names, "_write_to_debugger", PyCFunction_NewEx(&write_definition, NULL, NULL));
    PyDict_SetItemString(names, "_script", PyUnicode_FromWideChar(words[0], -1));
    PySys_SetArgv(count, words);
    if (!PyRun_String(runner, PY_FILE_INPUT, names, names))
        PyErr_Clear();
    if (own) {
        Py_EndInterpreter(own);
        PyThreadState_Swap(main_thread);
    }
    main_thread = PyEval_SaveThread();
    is_running = 0;
}

__declspec(dllexport) HRESULT CALLBACK py(IDebugClient *client, PCSTR text)
{
    static wchar_t buffer[TEXT_SIZE], script[MAX_PATH], *words[MAX_WORDS];
    int count, first = 0, is_global = 0;
    if (client->lpVtbl->QueryInterface(client, &IID_IDebugControl, (void **)&control))
        return E_FAIL;
    if (is_running) {
        say(DEBUG_OUTPUT_ERROR, "can not run !py command recursive\n");
        return S_OK;
    }
    count = split(text, buffer, words);
    for (; first < count && words[first][0] == L'-'; first++)
        is_global |= !wcscmp(words[first], L"-g") || !wcscmp(words[first], L"--global");
    if (first == count)
        say(DEBUG_OUTPUT_ERROR, "usage: !py [options] [file]\n");
    else if (!SearchPathW(NULL, words[first], L".py", MAX_PATH, script, NULL))
        say(DEBUG_OUTPUT_ERROR, "script file not found\n");
    else if (!load_python())
        say(DEBUG_OUTPUT_ERROR, "failed to load python39.dll\n");
    else {
        words[first] = script;
        run_script(count - first, words + first, is_global);
    }
    control->lpVtbl->Release(control);
    return S_OK;
}

__declspec(dllexport) HRESULT CALLBACK DebugExtensionInitialize(PULONG version, PULONG flags)
{
    HMODULE pinned;
    *version = DEBUG_EXTENSION_VERSION(1, 0);
    *flags = 0;
    GetModuleHandleExW(
        GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN, (LPCWSTR)(void *)py, &pinned);
    return S_OK;
}

__declspec(dllexport) void CALLBACK DebugExtensionUninitialize(void)
{
}
