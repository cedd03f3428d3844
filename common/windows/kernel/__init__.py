"""Objects of the Windows kernel: processes, address spaces, sections, files, handles."""
