"""What glibc and musl do: programs of Linux and other ELF systems."""
