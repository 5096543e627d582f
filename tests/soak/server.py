"""What listens in a container: echo by TCP and UDP of both families at port 7, a server of bodies at 8080.

An end that is neither the client's nor a reset is told in a line: without it nobody could say afterwards who closed.
"""
import random, socket, threading, time

# Far beyond the patience of any client, so that none is shown an end that is the server's impatience.
PATIENCE = 1000
BODY = random.Random(1).randbytes(1 << 22)


def echo(c):
    with c:
        c.settimeout(PATIENCE)
        while d := c.recv(1 << 18):
            c.sendall(d)
        c.shutdown(socket.SHUT_WR)


def bodies(c):
    with c:
        c.settimeout(PATIENCE)
        request = c.recv(4096)
        if not request:
            return  # Who tries both families at once wants one of them.
        size = int(request.split()[1].rpartition(b'/')[2])
        c.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % size)
        while size > 0:
            part = BODY[:size]
            c.sendall(part)
            size -= len(part)


def quietly(serve, c, client):
    began = time.monotonic()
    try:
        serve(c)
    except (ConnectionResetError, BrokenPipeError):
        pass  # A client that resets, or is killed, is what the soak has many of.
    except Exception as error:
        took = time.monotonic() - began
        print(f'at {time.strftime("%H:%M:%S")}: {serve.__name__} of {client[:2]} ended after {took:.1f} s: {error!r}', flush=True)


def streams(port, serve):
    s = socket.create_server(('::', port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    def accept():
        while True:
            c, client = s.accept()
            threading.Thread(target=quietly, args=(serve, c, client), daemon=True).start()
    threading.Thread(target=accept).start()


def datagrams(port):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.bind(('::', port))
    def answer():
        while True:
            try:
                d, a = s.recvfrom(1 << 16)
                s.sendto(d, a)
            except OSError:
                pass
    threading.Thread(target=answer).start()


streams(7, echo)
streams(8080, bodies)
datagrams(7)
print('up', flush=True)
