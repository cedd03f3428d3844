/* Opens what cannot be opened: failures HOW STEP...; a STEP is a library, or what is done between two of them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

/* With HOW "loudly" each error is asked for, and told on standard output. */
static int loudly;

static void tell(void)
{
    const char *error = loudly ? dlerror() : NULL;
    if (loudly)
        printf("ERROR %s\n", error ? error : "none");
}

static void open_with(const char *name, int flags)
{
    if (dlopen(name, flags) == NULL)
        tell();
}

int main(int count, char **words)
{
    loudly = count > 1 && !strcmp(words[1], "loudly");
    for (int i = 2; i < count; i++) {
        const char *step = words[i];
        if (!strcmp(step, "dlsym"))
            dlsym(RTLD_DEFAULT, "of_no_library");
        else if (!strncmp(step, "noload=", 7))
            open_with(step + 7, RTLD_NOW | RTLD_NOLOAD);
        else if (!strncmp(step, "space=", 6)) {
            if (dlmopen(LM_ID_NEWLM, step + 6, RTLD_NOW) == NULL)
                tell();
        } else
            open_with(step, RTLD_NOW);
    }
    return 0;
}
