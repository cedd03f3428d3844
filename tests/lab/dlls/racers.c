/* Threads that load and free the DLLs of the command line at the same time, each as often as the first word says.

   No thread ends before the process does: the engine cannot go on after the end of a thread under Wine 8. */
#include <stdlib.h>
#include <windows.h>

enum { THREADS = 2 };

static char **names;
static int count, rounds;
static HANDLE done[THREADS];

static DWORD WINAPI race(void *start)
{
    for (int i = 0; i < rounds; i++) {
        HMODULE loaded = LoadLibraryA(names[((int)(INT_PTR)start + i) % count]);
        if (loaded)
            FreeLibrary(loaded);
    }
    SetEvent(done[(int)(INT_PTR)start]);
    Sleep(INFINITE);
    return 0;
}

int main(int words, char **arguments)
{
    rounds = atoi(arguments[1]);
    names = arguments + 2;
    count = words - 2;
    for (int i = 0; i < THREADS; i++) {
        done[i] = CreateEventA(0, TRUE, FALSE, 0);
        CreateThread(0, 0, race, (void *)(INT_PTR)i, 0, 0);
    }
    WaitForMultipleObjects(THREADS, done, TRUE, INFINITE);
    TerminateProcess(GetCurrentProcess(), 0);
    return 0;
}
