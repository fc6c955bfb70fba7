"""wire.py: how the checker and the worker talk: JSON lines over two pipes, one on either side.

What to know first. Either side asks and the other answers; while one waits for an answer it serves
what the other asks, so calls nest (a test's lambda called by the candidate, say):

    ["?", 7, "call", function, [arguments], {keywords}]     a question and its number
    ["=", 7, value, [[0, value], ...]]                      the answer; arguments that were changed
    ["!", 7, ["ValueError", "Exception"], "text"]           an exception: its class and its bases

Only values cross: what JSON has, and arrays that begin with the name of a type (list, tuple, ...).
An object that is no plain value stays where it is: ["mine", 3] is the sender's object 3, ["yours",
3] the receiver's. Nothing that arrives is ever executed, so a hostile line can be wrong, no more.
The checker runs tests with what it has received, so it must not hand control to it either: a Remote
never answers ==, <, + or the like, which would show the candidate what its answer is compared with.
"""

import builtins
import collections
import datetime
import decimal
import fractions
import json
import os

LINE = 4 << 20  # bytes; a longer answer breaks the protocol
SMALL = 1 << 10000  # larger whole numbers travel in base 16, which takes linear time

# Built-in types that may be named in an answer. Questions may name any built-in function.
TYPES = {kind.__name__: kind for kind in (
    bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict, range,
    object)}


class Broken(BaseException):
    """The other side is gone, or does not keep to the protocol. Tests cannot catch it by accident,
    and it is raised again whenever they ask anything more."""


class Foreign(Exception):
    """An exception of the other side that is no built-in one."""


class Remote:
    """An object of the other side."""

    def __init__(self, peer, number):
        object.__setattr__(self, "_peer", peer)
        object.__setattr__(self, "_number", number)

    def __call__(self, *args, **keywords):
        return self._peer.ask("call", self, list(args), keywords)

    def __getattr__(self, name):
        return self._peer.ask("get", self, name)

    def __setattr__(self, name, value):
        self._peer.ask("set", self, name, value)

    def __getitem__(self, key):
        return self._peer.ask("item", self, key)

    def __setitem__(self, key, value):
        self._peer.ask("put", self, key, value)

    def __iter__(self):
        return self._peer.ask("iter", self)

    def __next__(self):
        found = self._peer.ask("next", self)
        if type(found) is not tuple or len(found) != 1:
            raise StopIteration
        return found[0]

    def __len__(self):
        return exact(int, self._peer.ask("len", self))

    def __bool__(self):
        return exact(bool, self._peer.ask("bool", self))

    def __str__(self):
        return exact(str, self._peer.ask("str", self))

    def __repr__(self):
        return exact(str, self._peer.ask("repr", self))

    def __eq__(self, other):
        return isinstance(other, Remote) and self._number == other._number

    def __hash__(self):
        return hash(self._number)


def exact(kind, value):
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected")
    return value


def encode_each(peer, values):
    return [encode(peer, value) for value in values]


def encode_pairs(peer, name, value, kind=dict):
    flat = [name]
    for key in kind.__iter__(value):
        flat.append(encode(peer, key))
        flat.append(encode(peer, dict.__getitem__(value, key)))
    return flat


def encode_number(value):
    value = int.__int__(value)
    return value if -SMALL < value < SMALL else ["int", hex(value)]


# In this order, because the first that an object is an instance of is what it is sent as.
ENCODERS = (
    (str, lambda peer, x: str.__str__(x)),
    (int, lambda peer, x: encode_number(x)),
    (float, lambda peer, x: float.__pos__(x)),
    (list, lambda peer, x: ["list", *encode_each(peer, list.__iter__(x))]),
    (tuple, lambda peer, x: ["tuple", *encode_each(peer, tuple.__iter__(x))]),
    (collections.Counter, lambda peer, x: encode_pairs(peer, "Counter", x)),
    (collections.OrderedDict, lambda peer, x: encode_pairs(
        peer, "OrderedDict", x, collections.OrderedDict)),
    (dict, lambda peer, x: encode_pairs(peer, "dict", x)),
    (set, lambda peer, x: ["set", *encode_each(peer, set.__iter__(x))]),
    (frozenset, lambda peer, x: ["frozenset", *encode_each(peer, frozenset.__iter__(x))]),
    (bytes, lambda peer, x: ["bytes", bytes.hex(x)]),
    (bytearray, lambda peer, x: ["bytearray", bytearray.hex(x)]),
    (complex, lambda peer, x: ["complex", x.real, x.imag]),
    (range, lambda peer, x: ["range", *map(encode_number, (x.start, x.stop, x.step))]),
    (collections.deque, lambda peer, x: ["deque", x.maxlen, *encode_each(peer, x)]),
    (decimal.Decimal, lambda peer, x: ["Decimal", str(x)]),
    (fractions.Fraction, lambda peer, x: [
        "Fraction", encode_number(x.numerator), encode_number(x.denominator)]),
    (datetime.datetime, lambda peer, x: peer.own(x) if x.tzinfo else [
        "datetime", x.year, x.month, x.day, x.hour, x.minute, x.second, x.microsecond]),
    (datetime.date, lambda peer, x: ["date", x.year, x.month, x.day]),
    (datetime.time, lambda peer, x: peer.own(x) if x.tzinfo else [
        "time", x.hour, x.minute, x.second, x.microsecond]),
    (datetime.timedelta, lambda peer, x: ["timedelta", x.days, x.seconds, x.microseconds]),
    (Remote, lambda peer, x: ["yours", x._number]),
)
EXACT = {kind: encoder for kind, encoder in ENCODERS}
CHANGING = (list, dict, set, bytearray, collections.deque)


def encode(peer, value):
    kind = type(value)
    if value is None or kind is bool:
        return value
    encoder = EXACT.get(kind)
    if encoder:
        return encoder(peer, value)
    if kind.__module__ == "numpy" and not hasattr(value, "__len__") and hasattr(value, "item"):
        return encode(peer, value.item())  # a scalar
    if value is Ellipsis:
        return ["Ellipsis"]
    if kind in (type, type(len)) and peer.may_name(value):
        return ["builtin", value.__name__]
    for base, encoder in ENCODERS:
        if isinstance(value, base):
            return encoder(peer, value)
    return peer.own(value)


def decode_pairs(peer, kind, items):
    each = [decode(peer, item) for item in items]
    result = kind()
    for key, value in zip(each[::2], each[1::2], strict=True):
        result[key] = value
    return result


DECODERS = {
    "list": lambda peer, items: [decode(peer, item) for item in items],
    "tuple": lambda peer, items: tuple([decode(peer, item) for item in items]),
    "set": lambda peer, items: {decode(peer, item) for item in items},
    "frozenset": lambda peer, items: frozenset([decode(peer, item) for item in items]),
    "dict": lambda peer, items: decode_pairs(peer, dict, items),
    "Counter": lambda peer, items: decode_pairs(peer, collections.Counter, items),
    "OrderedDict": lambda peer, items: decode_pairs(peer, collections.OrderedDict, items),
    "int": lambda peer, items: int(exact(str, items[0]), 16),
    "bytes": lambda peer, items: bytes.fromhex(items[0]),
    "bytearray": lambda peer, items: bytearray.fromhex(items[0]),
    "complex": lambda peer, items: complex(exact(float, items[0]), exact(float, items[1])),
    "range": lambda peer, items: range(*[decode(peer, item) for item in items]),
    "deque": lambda peer, items: collections.deque(
        [decode(peer, item) for item in items[1:]], items[0]),
    "Decimal": lambda peer, items: decimal.Decimal(exact(str, items[0])),
    "Fraction": lambda peer, items: fractions.Fraction(*[decode(peer, item) for item in items]),
    "datetime": lambda peer, items: datetime.datetime(*items),
    "date": lambda peer, items: datetime.date(*items),
    "time": lambda peer, items: datetime.time(*items),
    "timedelta": lambda peer, items: datetime.timedelta(*items),
    "Ellipsis": lambda peer, items: Ellipsis,
    "builtin": lambda peer, items: peer.named(exact(str, items[0])),
    "mine": lambda peer, items: Remote(peer, exact(int, items[0])),
    "yours": lambda peer, items: peer.object(exact(int, items[0])),
}


def decode(peer, item):
    if type(item) is dict:
        raise ValueError("no value begins with a brace")
    return DECODERS[item[0]](peer, item[1:]) if type(item) is list else item


def change(old, new):
    """Makes old, which the candidate has had as an argument, equal to new, in place and inside."""
    if isinstance(old, list) and len(old) == len(new):
        for i, (was, now) in enumerate(zip(old, new)):
            if type(was) is type(now) and isinstance(was, CHANGING):
                change(was, now)
            else:
                old[i] = now
    elif isinstance(old, (list, bytearray)):
        old[:] = new
    else:
        old.clear()
        old.extend(new) if isinstance(old, collections.deque) else old.update(new)


class Peer:
    """One end of the conversation. Subclasses say what the other side may do (`perform`)."""

    def __init__(self, source, sink):
        self.source, self.sink = source, sink
        self.pending = b""
        self.asked = 0
        self.broken = None
        self.objects, self.numbers = [], {}

    def own(self, value):
        """An object that is no value: its number, under which it also stays alive."""
        number = self.numbers.setdefault(id(value), len(self.objects))
        if number == len(self.objects):
            self.objects.append(value)
        return ["mine", number]

    def object(self, number):
        if not 0 <= number < len(self.objects):
            raise ValueError("no such object")
        return self.objects[number]

    def may_name(self, value):
        return TYPES.get(value.__name__) is value

    def named(self, name):
        return TYPES[name]

    def fail(self, why):
        self.broken = self.broken or why
        raise Broken(self.broken)

    def send(self, *message):
        data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self.sink, data):]
        except OSError:
            self.fail("ended")

    def receive(self):
        parts, size = [], 0
        while b"\n" not in self.pending:
            parts.append(self.pending)
            size += len(self.pending)
            if size > LINE:
                self.fail(f"an answer of more than {LINE >> 20} MiB")
            self.pending = os.read(self.source, 1 << 16)
            if not self.pending:
                self.fail("ended")
        end, _, self.pending = self.pending.partition(b"\n")
        try:
            message = json.loads(b"".join(parts) + end)
            if type(message) is list and len(message) >= 3 and message[0] in ("?", "=", "!"):
                return message
        except (ValueError, RecursionError, MemoryError):
            pass
        self.fail("an answer that is no line of the protocol")

    def ask(self, what, *args):
        if self.broken:
            raise Broken(self.broken)
        self.asked += 1
        number = self.asked
        self.send("?", number, what, *[encode(self, arg) for arg in args])
        while True:
            kind, got, *rest = self.receive()
            if kind == "?":
                self.answer(got, *rest)
            elif got != number or type(got) is not int:
                self.fail("an answer to another question")
            elif kind == "=" and len(rest) <= 2:
                return self.result(args[1] if what == "call" else [], *rest)
            elif len(rest) == 2 and list(map(type, rest)) == [list, str]:
                raise self.exception(*rest)
            else:
                self.fail("an answer that is neither a value nor an exception")

    def result(self, args, value, changes=()):
        """The value that has come; first, what of the arguments was changed is."""
        try:
            value = decode(self, value)
            changes = [(exact(int, i), decode(self, new)) for i, new in changes]
            for i, new in changes:
                if not 0 <= i < len(args) or not isinstance(args[i], CHANGING) or \
                        type(new) is not type(args[i]):
                    raise ValueError
        except MemoryError:
            raise
        except Exception:
            self.fail("an answer that is no value")
        for i, new in changes:
            change(args[i], new)
        return value

    def exception(self, names, text):
        """The built-in exception that the other side's is, or comes from. Not StopIteration: raised
        inside map(), it would end the tests' loop as if there were nothing left to test."""
        names = list(map(str, names))
        for name in names:
            kind = getattr(builtins, name, None)
            if name in ("StopIteration", "StopAsyncIteration"):
                break
            if isinstance(kind, type) and issubclass(kind, Exception):
                try:
                    error = kind(text)
                except TypeError:  # UnicodeDecodeError wants more than a text
                    continue
                error.remote = f"{names[0]}: {text}"
                return error
        error = Foreign(text)
        error.remote = f"{names[0] if names else ''}: {text}"
        return error

    def answer(self, number, what, *args):
        try:
            reply = ("=", number, *self.perform(what, *args))
        except Broken:
            raise
        except BaseException as error:
            reply = ("!", number, *describe(error))
        self.send(*reply)


def describe(error):
    try:
        text = str(error)[:400]
    except BaseException:
        text = ""
    return [kind.__name__ for kind in type(error).__mro__], text
