/* mscoree.dll with nothing behind it.
 *
 * pykd.initialize() asks mscoree for an ICLRDebugging, which only targets with .NET need, and fails without; Wine's has none. */
#include <windows.h>

typedef struct { const void *const *methods; } Object;

static HRESULT WINAPI query(Object *object, REFIID id, void **result)
{
    (void)id;
    *result = object;
    return S_OK;
}

static ULONG WINAPI count_reference(Object *object)
{
    (void)object;
    return 1;
}

static HRESULT WINAPI open_virtual_process(Object *object)
{
    (void)object;
    return E_NOTIMPL;
}

static HRESULT WINAPI can_unload_now(Object *object, HMODULE module)
{
    (void)object;
    (void)module;
    return S_FALSE;
}

static const void *const methods[] = {query, count_reference, count_reference, open_virtual_process, can_unload_now};
static Object debugging = {methods};

__declspec(dllexport) HRESULT WINAPI CLRCreateInstance(REFCLSID class, REFIID id, void **result)
{
    (void)class;
    return query(&debugging, id, result);
}
