"""One shift of mixed traffic: `traffic.py SECONDS KIND=ADDRESS/PORT...`, each kind on a thread of its own.

Each kind loops until the shift is over and counts its rounds, the bytes whose arrival it has compared, and the
datagrams that were lost. What must not happen ends the kind with a line `FAILED KIND: why`; the last lines are
`KIND ROUNDS BYTES SENT LOST`. Waits are long: the machine may be busy with other things.

Behind a failure stands what is known of its connection: addresses, what was sent, heard and closed when, the kernel's state of the
socket, and what the instances (`SOAK_CONTROLS`, `NAME=PATH` each) know of a flow with its port.
"""
import json, os, random, select, socket, struct, subprocess, sys, threading, time, traceback, zlib

PATIENCE = 60
END = time.monotonic() + float(sys.argv[1])
BODY = random.Random(1).randbytes(1 << 22)


class Tally:
    def __init__(self):
        self.rounds = self.bytes = self.sent = self.lost = 0


def going():
    return time.monotonic() < END


def family(address):
    return socket.AF_INET6 if ':' in address else socket.AF_INET


class Stream(socket.socket):
    """A connection that remembers what became of it."""
    def __init__(self, address, port):
        super().__init__(family(address))
        self.settimeout(PATIENCE)
        self.began = time.monotonic()
        self.connected = self.written = self.half_closed = self.heard = self.ended = None
        self.taken = self.given = self.got = 0
        self.connect((address, port))
        self.connected = time.monotonic()
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def sendall(self, data):
        self.given += len(data)
        super().sendall(data)
        self.taken += len(data)
        self.written = time.monotonic()

    def recv(self, most):
        block = super().recv(most)
        now = time.monotonic()
        self.got += len(block)
        if block:
            self.heard = now
        else:
            self.ended = now
        return block

    def shutdown(self, how):
        super().shutdown(how)
        self.half_closed = time.monotonic()

    def __exit__(self, kind, error, trace):
        if error is not None and not hasattr(error, 'evidence'):
            error.evidence = evidence(self)
        super().__exit__(kind, error, trace)


STATES = dict(enumerate('? ESTABLISHED SYN_SENT SYN_RECV FIN_WAIT1 FIN_WAIT2 TIME_WAIT CLOSE CLOSE_WAIT LAST_ACK LISTEN CLOSING'.split()))


def ask(control, *words):
    try:
        said = subprocess.run(['/mnt/netferry', words[0], '--control', control, *words[1:]],
                              capture_output=True, text=True, timeout=20)
        return json.dumps(json.loads(said.stdout)) if said.returncode == 0 else said.stderr.strip()
    except Exception as error:
        return repr(error)


def evidence(s):
    """One line about a connection that must not have become what it has."""
    now = time.monotonic()
    ago = lambda at: 'never' if at is None else f'{now - at:.1f} s ago'
    words = [time.strftime('%H:%M:%S')]
    port = 0
    for side, call in ('from', s.getsockname), ('to', s.getpeername):
        try:
            address = call()
            port = port or address[1]
            words.append(f'{side} {address[0]} {address[1]}')
        except OSError as error:
            words.append(f'{side} ? ({error})')
    words += [f'begun {ago(s.began)}', f'connected {ago(s.connected)}',
              f'{s.taken} of {s.given} bytes written, the last {ago(s.written)}', f'half-closed {ago(s.half_closed)}',
              f'{s.got} bytes heard, the last {ago(s.heard)}', f'peer ended {ago(s.ended)}']
    try:
        raw = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
        few, many = struct.unpack('8B', raw[:8]), struct.unpack('24I', raw[8:104])
        _, _, acked, received = struct.unpack('4Q', raw[104:136])
        words += [f'kernel: {STATES.get(few[0])}, {few[2]} timeouts in a row, {many[4]} segments unacknowledged, '
                  f'{acked} bytes acknowledged, {received} received, data sent {many[9]} ms ago, '
                  f'data received {many[11]} ms ago, acknowledged {many[12]} ms ago, error {s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)}']
    except (OSError, struct.error) as error:
        words.append(f'kernel: {error!r}')
    for word in os.environ.get('SOAK_CONTROLS', '').split():
        instance, _, control = word.partition('=')
        if (flows := ask(control, 'flows', '--json', f'port {port}')) != '[]':
            words.append(f'flows of {instance}: {flows}')
        words.append(f'failures of {instance}: {ask(control, "explain", "--last", "6", "--json")}')
    return '; '.join(words)


def dial(address, port):
    return Stream(address, port)


def read_to_end(s):
    blocks = []
    while block := s.recv(1 << 18):
        blocks.append(block)
    return b''.join(blocks)


def exchange(s, data):
    """Sends `data`, half-closes, and must get all of it back, and the end, while it is still sending."""
    failed = []
    def send():
        try:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
        except Exception as error:
            failed.append(error)
    sender = threading.Thread(target=send)
    sender.start()
    back = read_to_end(s)
    sender.join()
    if failed:
        raise failed[0]
    assert back == data, f'{len(back)} of {len(data)} bytes came back, or others'


def short(address, port, tally):
    """Many small connections, some at the same time."""
    while going():
        streams = [dial(address, port) for _ in range(random.randrange(1, 16))]
        for s in streams:
            data = os.urandom(random.randrange(1, 3000))
            exchange(s, data)
            tally.bytes += 2 * len(data)
            tally.rounds += 1
            s.close()
        time.sleep(0.05)


def bulk(address, port, tally):
    """Both ways at once, compared."""
    while going():
        with dial(address, port) as s:
            start = random.randrange(len(BODY) // 2)
            data = BODY[start:start + random.randrange(1 << 21)]
            exchange(s, data)
            tally.bytes += 2 * len(data)
            tally.rounds += 1
        time.sleep(0.3)


def http(address, port, tally):
    """Downloads and uploads with their checksums: what the same length gave the first time, what the server counted."""
    known = {}
    while going():
        size = random.choice([0, 1, 1460, 100_000, 4_000_000])
        with dial(address, port) as s:
            s.sendall(f'GET /bytes/{size} HTTP/1.1\r\n\r\n'.encode())
            body = read_to_end(s).partition(b'\r\n\r\n')[2]
        assert len(body) == size, f'{len(body)} of {size} bytes'
        assert known.setdefault(size, zlib.crc32(body)) == zlib.crc32(body), 'another body'
        with dial(address, port) as s:
            data = BODY[random.randrange(1000):][:size]
            s.sendall(f'PUT / HTTP/1.1\r\nContent-Length: {len(data)}\r\n\r\n'.encode() + data)
            said = read_to_end(s).partition(b'\r\n\r\n')[2].decode().split()
        assert said == [str(len(data)), f'{zlib.crc32(data):08x}'], f'{said} of {len(data)}'
        tally.bytes += 2 * size
        tally.rounds += 1
        time.sleep(0.3)


def by_name(name, port, tally):
    """Bodies of another container, which is asked for by its name."""
    while going():
        size = random.choice([0, 1, 1460, 100_000, len(BODY)])
        fetch = ['curl', '-sS', '--max-time', '100', f'http://{name}:{port}/bytes/{size}']
        got = subprocess.run(fetch, capture_output=True)
        assert got.returncode == 0, got
        assert got.stdout == BODY[:size], f'{len(got.stdout)} of {size} bytes, or others'
        tally.bytes += size
        tally.rounds += 1
        time.sleep(0.2)


def datagrams(address, port, tally):
    """One at a time, each must be what was sent; few may be lost."""
    with socket.socket(family(address), socket.SOCK_DGRAM) as s:
        s.connect((address, port))
        s.settimeout(PATIENCE / 2)
        number = 0
        while going():
            number += 1
            data = struct.pack('!Q', number) + os.urandom(random.choice([0, 50, 1000, 1400, 9000]))
            s.send(data)
            tally.sent += 1
            try:
                while (back := s.recv(65536))[:8] != data[:8]:
                    pass
                assert back == data, 'another datagram'
                tally.bytes += 2 * len(data)
            except TimeoutError:
                tally.lost += 1
            tally.rounds += 1
            time.sleep(0.05)


def storm(address, port, tally):
    """Bursts from fresh sockets; what is lost is lost, what comes must be right."""
    while going():
        sockets = []
        for _ in range(8):
            s = socket.socket(family(address), socket.SOCK_DGRAM)
            s.connect((address, port))
            s.setblocking(False)
            sockets.append(s)
        for number in range(200):
            for s in sockets:
                try:
                    s.send(struct.pack('!Q', number) + bytes([number]) * 500)
                    tally.sent += 1
                except BlockingIOError:
                    pass
        until, came = time.monotonic() + 0.5, 0
        while (left := until - time.monotonic()) > 0:
            for s in select.select(sockets, [], [], left)[0]:
                back = s.recv(65536)
                number = struct.unpack('!Q', back[:8])[0]
                assert back[8:] == bytes([number]) * 500, 'another datagram'
                came += 1
        tally.lost += 8 * 200 - came
        tally.bytes += came * 2 * 508
        tally.rounds += 1
        for s in sockets:
            s.close()
        time.sleep(3)


def resets(address, port, tally):
    """Connections that end in RST, in the middle of a transfer or before anything was sent."""
    while going():
        s = dial(address, port)
        if random.random() < 0.7:
            s.setblocking(False)
            try:
                s.send(BODY[:1 << 20])
            except BlockingIOError:
                pass
            time.sleep(random.random() / 20)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        s.close()
        tally.rounds += 1
        time.sleep(0.1)


def reset_by_peer(address, port, tally):
    """A server that answers the first bytes with RST: it must be seen as that."""
    while going():
        with dial(address, port) as s:
            try:
                s.sendall(b'x')
                assert s.recv(9) != b'', 'ended, not reset'
                raise AssertionError('nothing was to come')
            except ConnectionResetError:
                tally.rounds += 1
        time.sleep(0.2)


def half_closes(address, port, tally):
    """The client is silent after its FIN for a while, and again the server's answer is complete."""
    while going():
        with dial(address, port) as s:
            s.shutdown(socket.SHUT_WR)
            time.sleep(random.random() / 2)
            assert read_to_end(s) == b''
        with dial(address, port) as s:
            data = BODY[:random.randrange(1, 1 << 18)]
            s.sendall(data[:-1])
            time.sleep(random.random() / 2)
            s.sendall(data[-1:])
            s.shutdown(socket.SHUT_WR)
            time.sleep(random.random() / 2)
            assert read_to_end(s) == data
            tally.bytes += 2 * len(data)
        tally.rounds += 1


def killed(address, port, tally):
    """Clients that are killed while they fetch."""
    url = f'http://[{address}]:{port}' if ':' in address else f'http://{address}:{port}'
    while going():
        client = subprocess.Popen(['curl', '-s', '-o', '/dev/null', '--limit-rate', '1M', f'{url}/bytes/100000000'])
        time.sleep(0.2 + random.random() / 2)
        client.kill()
        client.wait()
        tally.rounds += 1
        time.sleep(0.5)


def refused(address, port, tally):
    """A port nobody listens on says so."""
    while going():
        try:
            dial(address, port).close()
            raise AssertionError('somebody answered')
        except ConnectionRefusedError:
            tally.rounds += 1
        time.sleep(0.2)


def resting(address, port, tally):
    """Connections that rest for the whole shift and are alive in the end."""
    streams = [dial(address, port) for _ in range(50)]
    while going():
        time.sleep(0.5)
    for s in streams:
        exchange(s, b'still there')
        tally.bytes += 22
        tally.rounds += 1
        s.close()


def slow(address, port, tally):
    """Readers so slow that windows close, who leave in the middle."""
    while going():
        with socket.socket(family(address)) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.settimeout(PATIENCE)
            s.connect((address, port))
            s.sendall(b'GET /bytes/50000000 HTTP/1.1\r\n\r\n')
            until = time.monotonic() + random.random() * 5
            while going() and time.monotonic() < until:
                tally.bytes += len(s.recv(2048))
                time.sleep(0.02)
            tally.rounds += 1


def dig(address, port, tally):
    """Names of both families, and an answer that takes TCP."""
    answers = {'A': '203.0.113.2', 'AAAA': '2001:db8:1::2'}
    def look_up(*words):
        return subprocess.check_output(['dig', f'@{address}', '+short', '+time=30', '+tries=3', *words], text=True).strip()
    while going():
        for kind, answer in answers.items():
            # A resolver that is late is asked again, and dig says so first.
            said = look_up('www.test', kind).splitlines()[-1]
            assert said == answer, f'{kind} is {said!r}'
        said = look_up('big.test', 'TXT')
        assert said.count('x') == 4000, f'{said.count("x")} of 4000'
        tally.rounds += 3
        time.sleep(0.5)


def ping(address, port, tally):
    """Echoes of three sizes, whole; one may be lost, as in any network."""
    while going():
        for size in ['56', '1400', '8000']:
            said = subprocess.run(['ping', '-n', '-c', '3', '-i', '0.2', '-W', '30', '-M', 'dont', '-s', size, '-p', 'a5', address],
                                  text=True, capture_output=True)
            received = next((int(word) for line in said.stdout.splitlines() if ' received' in line
                             for word in line.split(', ')[1].split()[:1]), 0)
            assert received and 'wrong data' not in said.stdout, said.stdout + said.stderr
            tally.sent += 3
            tally.lost += 3 - received
            tally.rounds += 3
            tally.bytes += 2 * received * int(size)
        time.sleep(1)


def work(kind, address, port, tally):
    try:
        globals()[kind](address, port, tally)
    except Exception as error:
        places = list(traceback.walk_tb(error.__traceback__))
        # The innermost first; one that its own kind has closed has told already.
        streams = [value for frame, _ in reversed(places) for value in frame.f_locals.values() if isinstance(value, Stream)]
        known = getattr(error, 'evidence', None) or next((evidence(s) for s in streams), 'no connection')
        print(f'FAILED {kind} {address} {port}: {error!r} in line {places[-1][1]}: {known}', flush=True)


def main():
    workers = []
    for word in sys.argv[2:]:
        kind, _, target = word.partition('=')
        address, _, port = target.rpartition('/')
        tally = Tally()
        worker = threading.Thread(target=work, args=(kind, address, int(port), tally))
        worker.start()
        workers.append((kind, tally, worker))
    for kind, tally, worker in workers:
        worker.join()
        print(kind, tally.rounds, tally.bytes, tally.sent, tally.lost, flush=True)


main()
