"""What listens in a container: echo by TCP and UDP of both families at port 7, a server of bodies at 8080."""
import socket, threading


def echo(c):
    with c:
        c.settimeout(120)
        while d := c.recv(1 << 18):
            c.sendall(d)
        c.shutdown(socket.SHUT_WR)


def bodies(c):
    with c:
        c.settimeout(120)
        size = int(c.recv(4096).split()[1].rpartition(b'/')[2])
        c.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % size)
        while size > 0:
            part = min(size, 1 << 16)
            c.sendall(bytes(part))
            size -= part


def quietly(serve, c):
    try:
        serve(c)
    except OSError:
        pass  # A client that resets, or is killed, is what the soak has many of.


def streams(port, serve):
    s = socket.create_server(('::', port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    def accept():
        while True:
            c, _ = s.accept()
            threading.Thread(target=quietly, args=(serve, c), daemon=True).start()
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
