/* python.exe for the python39.dll that the lab has: the whole interpreter is that library's Py_Main. */
#include <windows.h>

typedef int (*Main)(int count, wchar_t **arguments);

/* Wine shows /dev/null as a character device that is no console, and CPython dies of such a standard input.  The C runtime
 * looks at the standard handles when python39.dll brings it in, so this comes before. */
static void replace_null_input(void)
{
    HANDLE input = GetStdHandle(STD_INPUT_HANDLE), reader, writer;
    DWORD mode, type = GetFileType(input);
    if ((type != FILE_TYPE_CHAR && type != FILE_TYPE_UNKNOWN) || GetConsoleMode(input, &mode))
        return;
    if (CreatePipe(&reader, &writer, NULL, 0)) {
        CloseHandle(writer);
        SetStdHandle(STD_INPUT_HANDLE, reader);
    }
}

int wmain(int count, wchar_t **arguments)
{
    HMODULE library;
    Main run;
    replace_null_input();
    library = LoadLibraryW(L"python39.dll");
    run = library ? (Main)(void *)GetProcAddress(library, "Py_Main") : NULL;
    return run ? run(count, arguments) : 127;
}
