"""A peer whose identity comes from the SPIFFE Workload API by the client that
Python programs take, and that speaks mutual TLS by itself. Same command line
as the one in Go, tests/tools/spiffe-peer, which says what it does.
"""

import contextlib
import http.client
import json
import os
import queue
import signal
import socket
import socketserver
import ssl
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import SpiffeId, WorkloadApiClient, X509Source

DEADLINE = 10
FIRST_IDENTITY = 30


class Identity:
    """What the Workload API says now, as TLS takes it."""

    def __init__(self):
        self.source = X509Source(timeout_in_seconds=FIRST_IDENTITY)

    def serial(self):
        return self.source.get_x509_context().default_svid.leaf.serial_number

    def authorities(self, domain):
        """A trust domain's bundle, as a set of certificates in DER."""
        bundle = self.source.get_bundle_for_trust_domain(domain)
        if bundle is None:
            raise PermissionError(f"no bundle of the trust domain {domain}")
        return {authority.public_bytes(Encoding.DER) for authority in bundle.x509_authorities}

    def tls(self, purpose, authorities):
        """For one handshake, so that it is never with an older certificate."""
        context = ssl.SSLContext(purpose)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        # A bundle may hold an intermediate without its root.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if purpose == ssl.PROTOCOL_TLS_SERVER:
            # Who resumes a session isn't verified again.
            context.num_tickets = 0
        context.set_alpn_protocols(["http/1.1"])
        context.load_verify_locations(cadata=b"".join(authorities))
        svid = self.source.get_x509_context().default_svid
        pem = svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        pem += b"".join(certificate.public_bytes(Encoding.PEM) for certificate in svid.cert_chain)
        # `ssl` takes keys from files only: this one is never on a disk.
        with os.fdopen(os.memfd_create("svid"), "wb") as file:
            file.write(pem)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return context

    def client(self, sock, domain, host):
        context = self.tls(ssl.PROTOCOL_TLS_CLIENT, self.authorities(domain))
        return context.wrap_socket(sock, server_hostname=host)

    def server(self, sock):
        """Takes whoever verifies against the bundle of their own trust domain."""
        bundles = self.source.get_x509_context().x509_bundle_set.bundles
        every = set().union(*(self.authorities(bundle.trust_domain) for bundle in bundles))
        sock = self.tls(ssl.PROTOCOL_TLS_SERVER, every).wrap_socket(sock, server_side=True)
        # Private in Python 3.11, public since 3.13. Root last.
        root = sock._sslobj.get_verified_chain()[-1].public_bytes(ssl._ssl.ENCODING_DER)
        peer = peer_id(sock)
        if root not in self.authorities(peer.trust_domain):
            sock.close()
            raise PermissionError(f"{peer} is signed by another trust domain")
        return sock


def peer_id(sock):
    uris = [value for kind, value in sock.getpeercert().get("subjectAltName", ()) if kind == "URI"]
    if len(uris) != 1:
        raise PermissionError(f"the peer has {len(uris)} URIs, not one SPIFFE ID")
    return SpiffeId(uris[0])


class Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body leave in one piece.
    wbufsize = -1

    def do_GET(self):
        body = f"hello from python, you are {peer_id(self.connection)}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True

    def __init__(self, port, identity):
        self.identity = identity
        super().__init__(("", port), Hello, bind_and_activate=False)
        self.socket.close()
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        self.socket = socket.create_server(("", port), family=family, backlog=128, dualstack_ipv6=dual)

    def finish_request(self, request, client_address):
        # In the connection's own thread: whoever is slow here delays nobody.
        request.settimeout(DEADLINE)
        with self.identity.server(request) as sock:
            sock.settimeout(None)
            super().finish_request(sock, client_address)

    def handle_error(self, request, client_address):
        print(f"{client_address[0]}: {sys.exception()!r}", file=sys.stderr)


class Connection(http.client.HTTPConnection):
    """To a server that has to be the one of a SPIFFE ID."""

    default_port = 443

    def __init__(self, identity, url, server):
        super().__init__(url.hostname, url.port)
        self.identity, self.server = identity, server
        self.target = url._replace(scheme="", netloc="", fragment="").geturl() or "/"

    def connect(self):
        super().connect()
        self.sock = self.identity.client(self.sock, self.server.trust_domain, self.host)
        if peer_id(self.sock) != self.server:
            raise PermissionError(f"the server is {peer_id(self.sock)}, not {self.server}")

    def get(self, last=False):
        """Connects if that is still to be done, or if the server has said with
        its last answer that it closes. No request is made twice."""
        try:
            self.request("GET", self.target, headers={"Connection": "close"} if last else {})
            response = self.getresponse()
            body = response.read().decode()
        except BaseException:
            self.close()
            raise
        if last:
            self.close()
        if response.status != 200:
            raise http.client.HTTPException(f"status {response.status}: {body}")
        return body


@contextlib.contextmanager
def deadline():
    """Ends what the main thread does in time, whatever it waits for."""

    def over(*_):
        raise TimeoutError(f"not done within {DEADLINE} s")

    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def serve(port):
    server = Server(int(port), Identity())
    print("serving", flush=True)
    server.serve_forever()


def call(url, server):
    with deadline():
        body = Connection(Identity(), urllib.parse.urlsplit(url), SpiffeId(server)).get()
    print(body, end="")


def load(url, server):
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    url, server, identity = urllib.parse.urlsplit(url), SpiffeId(server), Identity()
    said = {"calls": 0, "failed": 0, "rotations": 0, "firstError": ""}
    last = identity.serial()

    def updated():
        nonlocal last
        if identity.serial() != last:
            said["rotations"] += 1
            last = identity.serial()

    identity.source.subscribe_for_updates(updated)
    kept = Connection(identity, url, server)
    while not stop.is_set():
        fresh = said["calls"] % 2 == 1
        said["calls"] += 1
        try:
            with deadline():
                connection = Connection(identity, url, server) if fresh else kept
                connection.get(last=fresh)
        except Exception as error:
            said["failed"] += 1
            said["firstError"] = said["firstError"] or f"{'fresh' if fresh else 'kept'} connection: {error!r}"
        time.sleep(0.005)
    print(json.dumps(said), flush=True)


def trust_domains(bundles):
    return sorted(bundle.trust_domain.name for bundle in bundles.bundles)


def watch():
    def update(context):
        svid, domains = context.default_svid, trust_domains(context.x509_bundle_set)
        line = {"id": str(svid.spiffe_id), "serial": f"{svid.leaf.serial_number:x}", "trustDomains": domains}
        print(json.dumps(line), flush=True)

    errors = queue.Queue()
    WorkloadApiClient().stream_x509_contexts(update, errors.put)
    raise errors.get()


def bundles():
    fetched = WorkloadApiClient().fetch_x509_bundles(timeout=DEADLINE)
    print(json.dumps({"trustDomains": trust_domains(fetched)}))


if __name__ == "__main__":
    mode, *arguments = sys.argv[1:] or [""]
    modes = {("serve", 1): serve, ("call", 2): call, ("load", 2): load, ("watch", 0): watch, ("bundles", 0): bundles}
    if (mode, len(arguments)) not in modes:
        sys.exit(f"usage: serve PORT | call URL ID | load URL ID | watch | bundles; not {sys.argv[1:]}")
    try:
        modes[mode, len(arguments)](*arguments)
    except Exception as error:
        sys.exit(f"{error!r}")
