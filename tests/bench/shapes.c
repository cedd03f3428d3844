/* Opens libraries and waits: shapes FOLDER N all|last [call]
   With "call", each is opened for all to see, and its function is called, which binds it to those that it calls. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char path[4096], name[32];
    int count = atoi(argv[2]), calls = argc > 4;
    for (int i = strcmp(argv[3], "last") ? 0 : count - 1; i < count; i++) {
        snprintf(path, sizeof path, "%s/lib%d.so", argv[1], i);
        void *handle = dlopen(path, RTLD_LAZY | (calls ? RTLD_GLOBAL : 0));
        if (!handle) {
            puts(dlerror());
            return 1;
        }
        if (calls) {
            snprintf(name, sizeof name, "f%d", i);
            ((void (*)(int))dlsym(handle, name))(1);
        }
    }
    puts("ready");
    fflush(stdout);
    pause();
}
