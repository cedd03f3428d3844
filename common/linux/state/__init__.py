"""Why a library is still loaded."""
