// What only C++ has: a unique symbol (UNIQUE is a number, so that two libraries can share one), a thread_local object.
#ifdef UNIQUE
template <int> struct Registry {
    static int value;
};
template <int n> int Registry<n>::value;
extern "C" int *lib_registry()
{
    return &Registry<UNIQUE>::value;
}
#endif

#ifdef OWED
struct Owed {
    int value;
    ~Owed();
};
Owed::~Owed()
{
    value = 0;
}
static thread_local Owed object;
extern "C" __attribute__((visibility("hidden"))) void lib_owe_cxx()
{
    ++object.value;
}
#endif
