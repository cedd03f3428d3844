"""How does Apache run for a test, with many modules?"""

from __future__ import annotations

import socket
from pathlib import Path

APACHE = """
ServerRoot {folder}
PidFile {folder}/pid
Mutex file:{folder}
Listen 127.0.0.1:{port}
ServerName localhost
ErrorLog {folder}/error.log
User nobody
{modules}
TypesConfig /dev/null
"""
APACHE_MODULES = """mpm_event authn_core authz_core authz_user alias autoindex cache deflate dir env expires filter
headers http2 info ldap lua mime negotiation proxy proxy_http remoteip reqtimeout rewrite session setenvif socache_shmcb
ssl status substitute unique_id userdir vhost_alias xml2enc"""


def read_log(folder: Path) -> str:
    """Return what apache2 wrote into its log."""
    log = folder / "error.log"
    return log.read_text(encoding="utf-8") if log.exists() else ""


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
