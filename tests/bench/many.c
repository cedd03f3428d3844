/* Opens N copies of a library and waits: many FOLDER N */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char path[4096];
    int count = argc > 2 ? atoi(argv[2]) : 0;
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/lib%d.so", argv[1], i);
        if (!dlopen(path, RTLD_NOW)) {
            puts(dlerror());
            return 1;
        }
    }
    puts("ready");
    fflush(stdout);
    pause();
}
