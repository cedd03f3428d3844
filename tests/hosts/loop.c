/* Opens and closes libraries for ever, at most two at a time: loop FOLDER COUNTER PAUSE, in microseconds. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define LIBRARIES 4

int main(int argc, char **argv)
{
    char path[LIBRARIES][4096];
    void *handles[LIBRARIES] = {0};
    volatile unsigned long *rounds;
    int pause = argc > 3 ? atoi(argv[3]) : 0;
    int file = open(argv[2], O_RDWR);

    rounds = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (rounds == MAP_FAILED)
        return 2;
    for (int i = 0; i < LIBRARIES; i++)
        snprintf(path[i], sizeof path[i], "%s/libloop%d.so", argv[1], i);
    for (int step = 0;; step = (step + 1) % LIBRARIES) {
        int before = (step + LIBRARIES - 1) % LIBRARIES;
        handles[step] = dlopen(path[step], RTLD_NOW);
        if (handles[step] == NULL) {
            puts(dlerror());
            return 1;
        }
        if (pause)
            usleep(pause);
        if (handles[before] != NULL && dlclose(handles[before]) != 0)
            return 3;
        handles[before] = NULL;
        if (pause)
            usleep(pause);
        if ((*rounds)++ == 0) {
            puts("ready");
            fflush(stdout);
        }
    }
}
