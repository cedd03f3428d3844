/* A program that loads, pins and frees DLLs as its arguments say, and stops around every FreeLibrary.

   load NAME, pin NAME, free NAME, wait (for a debugger that dumps). Handles are by name; a DLL that is not loaded is
   not freed. */
#include <stdio.h>
#include <string.h>
#include <windows.h>

static volatile int sink;

__declspec(dllexport) __attribute__((noinline)) void before_free(HMODULE handle) { sink = handle != NULL; }
__declspec(dllexport) __attribute__((noinline)) void after_free(BOOL succeeded) { sink = succeeded; }
__declspec(dllexport) __attribute__((noinline)) void at_wait(void) { sink = 1; }

int main(int count, char **words)
{
    HMODULE pinned;

    for (int i = 1; i < count; i++) {
        const char *verb = words[i];
        if (strcmp(verb, "wait") == 0) {
            at_wait();
            continue;
        }
        const char *name = words[++i];
        if (strcmp(verb, "load") == 0) {
            if (!LoadLibraryA(name))
                printf("failed %s %lu\n", name, GetLastError());
        } else if (strcmp(verb, "pin") == 0) {
            GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_PIN, name, &pinned);
        } else if (strcmp(verb, "call") == 0) {
            /* A delay load, or a forwarder that is met late. */
            int (*function)(void) = (int (*)(void))GetProcAddress(GetModuleHandleA(name), "touch");
            if (function)
                printf("call %s %d\n", name, function());
        } else {
            HMODULE handle = GetModuleHandleA(name);
            if (handle) {
                before_free(handle);
                after_free(FreeLibrary(handle));
            }
        }
        fflush(stdout);
    }
    return 0;
}
