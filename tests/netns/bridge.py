# What containers of a network do to each other: honest transfers, and frames by hand.
import hashlib, ipaddress, socket, struct, subprocess, sys, threading, time
from socket import AF_INET, AF_INET6, AF_PACKET, SOCK_DGRAM, SOCK_RAW, SOCK_STREAM

sys.stdout.reconfigure(line_buffering=True)
LIMIT = 30

def mac(text): return bytes.fromhex(text.replace(':', ''))

def packets():
    raw = socket.socket(AF_PACKET, SOCK_RAW, socket.htons(3))
    raw.bind(('eth0', 3))
    return raw

def note_largest(found):
    raw = packets()
    while True:
        frame, where = raw.recvfrom(1 << 17)
        if where[2] != 4: found[0] = max(found[0], len(frame))

def serve(rounds):
    "Takes streams and tells their digests, and sends datagrams back; then how large the largest frame was that came."
    found = [0]
    threading.Thread(target=note_largest, args=(found,), daemon=True).start()
    listener = socket.create_server(('::', 7000), family=AF_INET6, dualstack_ipv6=True)
    echo = socket.socket(AF_INET6, SOCK_DGRAM)
    echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    echo.bind(('::', 7000))
    def reflect():
        while True:
            data, peer = echo.recvfrom(1 << 16)
            echo.sendto(data, peer)
    threading.Thread(target=reflect, daemon=True).start()
    print('listening')
    for _ in range(min(rounds, 2)):
        stream, _ = listener.accept()
        digest = hashlib.sha256()
        while part := stream.recv(1 << 20): digest.update(part)
        stream.sendall(digest.digest())
        stream.close()
    print('largest', found[0])
    time.sleep(60)

def transfer(family, address, count):
    stream = socket.create_connection((address, 7000), timeout=LIMIT)
    block = hashlib.shake_256(b'netferry').digest(1 << 20)
    digest = hashlib.sha256()
    for _ in range(count >> 20):
        stream.sendall(block); digest.update(block)
    stream.shutdown(socket.SHUT_WR)
    told = b''
    while part := stream.recv(64): told += part
    assert told == digest.digest(), 'what arrived is not what was sent'

def datagrams(family, address):
    "From nothing to what leaves in fragments; a lost one is sent again."
    sock = socket.socket(family, SOCK_DGRAM)
    sock.connect((address, 7000))
    for size in (0, 1, 1400, 9000, 65000):
        data = bytes([size % 251]) * size
        for attempt in range(10):
            sock.settimeout(0.5 * (attempt + 1))
            sock.send(data)
            try:
                got = sock.recv(1 << 16)
                # An earlier one may come late.
                while len(got) != size: got = sock.recv(1 << 16)
                break
            except TimeoutError: pass
        else: sys.exit(f'{size} bytes do not come back')
        assert got == data

def accept_all():
    listener = socket.create_server(('', 7000))
    print('listening')
    while True:
        stream, _ = listener.accept()
        try: stream.sendall(stream.recv(4))
        except OSError: pass
        stream.close()

def connects(target, port, patience=LIMIT):
    try:
        # The world sends back what it gets; a container says that it is there.
        stream = socket.create_connection((target, port), timeout=patience)
        stream.settimeout(LIMIT)
        stream.sendall(b'here')
        return stream.recv(4) == b'here'
    except OSError as error:
        print(target, port, error, file=sys.stderr)
        return False

def is_cut_off(target, port): return not connects(target, port, 2)

def resolves(name):
    try: return bool(socket.getaddrinfo(name, 80))
    except socket.gaierror: return False

def neighbor(address, link):
    subprocess.run(['ip', 'neighbor', 'replace', address, 'lladdr', link, 'dev', 'eth0'], check=True)

# Frames by hand. The victim is 172.17.0.2, the liar 172.17.0.3, and nobody is 172.17.0.9.
VICTIM, LIAR, GATEWAY = mac('02:42:ac:11:00:02'), mac('02:42:ac:11:00:03'), None
BROADCAST, ALL_NODES = b'\xff' * 6, mac('33:33:00:00:00:01')

def checksum(data):
    if len(data) % 2: data += b'\0'
    total = sum(struct.unpack(f'!{len(data) // 2}H', data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

def udp4(source, to, destination, origin, text, ports=(4000, 4000)):
    payload = struct.pack('!HHHH', *ports, 8 + len(text), 0) + text
    header = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(payload), 1, 0, 64, 17, 0,
                         socket.inet_aton(origin), socket.inet_aton(destination))
    header = header[:10] + struct.pack('!H', checksum(header)) + header[12:]
    return to + source + b'\x08\x00' + header + payload

def icmp6(source, to, destination, origin, message):
    origin, destination = (ipaddress.ip_address(text).packed for text in (origin, destination))
    pseudo = origin + destination + struct.pack('!II', len(message), 58)
    message = message[:2] + struct.pack('!H', checksum(pseudo + message)) + message[4:]
    header = struct.pack('!IHBB', 6 << 28, len(message), 58, 255) + origin + destination
    return to + source + b'\x86\xdd' + header + message

def arp(source, operation, sender_mac, sender, target):
    return BROADCAST + source + struct.pack('!HHHBBH', 0x806, 1, 0x800, 6, 4, operation) + sender_mac + \
        socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)

def lie():
    raw = packets()
    gateway = mac('02:67:77:00:00:02')
    own6 = 'fe80::42:acff:fe11:3'
    advertise = lambda target, link: bytes([136, 0, 0, 0, 0x20, 0, 0, 0]) + ipaddress.ip_address(target).packed + b'\2\1' + link
    router = bytes([134, 0, 0, 0, 64, 0, 7, 8]) + bytes(8) + b'\1\1' + LIAR
    lies = [
        udp4(gateway, VICTIM, '172.17.0.2', '172.17.0.3', b'lie'),
        udp4(VICTIM, VICTIM, '172.17.0.2', '172.17.0.3', b'lie'),
        udp4(LIAR, VICTIM, '172.17.0.2', '172.17.0.1', b'lie'),
        udp4(LIAR, VICTIM, '172.17.0.2', '172.17.0.9', b'lie'),
        udp4(LIAR, BROADCAST, '255.255.255.255', '198.51.100.1', b'lie'),
        udp4(LIAR, BROADCAST, '255.255.255.255', '172.17.0.3', b'lie', (67, 68)),
        arp(LIAR, 2, LIAR, '172.17.0.1', '172.17.0.2'),
        arp(LIAR, 1, LIAR, '172.17.0.1', '172.17.0.1'),
        arp(LIAR, 2, LIAR, '172.17.0.2', '172.17.0.2'),
        icmp6(LIAR, ALL_NODES, 'ff02::1', own6, advertise('fd00:17::1', LIAR)),
        icmp6(LIAR, VICTIM, 'fd00:17::2', own6, advertise('fe80::2', LIAR)),
        icmp6(LIAR, ALL_NODES, 'ff02::1', own6, router),
        icmp6(gateway, ALL_NODES, 'ff02::1', 'fe80::2', router),
        icmp6(LIAR, ALL_NODES, 'ff02::1', 'fe80::2', router),
    ]
    for frame in lies: raw.send(frame)
    raw.send(udp4(LIAR, VICTIM, '172.17.0.2', '172.17.0.3', b'honest'))

def hear():
    "Counts what is heard until the honest word; what came before it was sent before it."
    raw = packets()
    raw.settimeout(LIMIT)
    print('listening')
    honest, lies = 0, 0
    own = VICTIM
    while not honest:
        frame, where = raw.recvfrom(1 << 17)
        if where[2] == 4: continue
        kind = frame[12:14]
        if frame.endswith(b'honest'): honest += 1
        elif frame.endswith(b'lie'): lies += 1
        elif kind == b'\x08\x06' and frame[6:12] == LIAR and frame[28:32] != socket.inet_aton('172.17.0.3'): lies += 1
        elif kind == b'\x86\xdd' and frame[20] == 58 and frame[54] in (134, 136, 137) and LIAR in frame: lies += 1
        if lies: print(frame.hex(), file=sys.stderr)
    print(f'heard {honest} honest, {lies} lies')
    time.sleep(60)
