"""attacks.py: what a hostile program may try; see test_sandbox.py, which runs every function below
in every kind of box. A function returns True when it got through; whatever else happens is a
success of the sandbox: an exception, an end of the process, a timeout. What only the outside can
see (a process or file that is left, a dead victim) is looked for there.

What to know first: what is sent into the box is the part of this file before the first ruler, with
TARGETS filled in, and one of the functions."""

TARGETS = {}  # port, abstract socket, canary file, victim's and parent's process ids, secret
ATTACKS = {}  # name -> (function, the profiles in which this is no attack but allowed)


def attack(*allowed):
    def add(function):
        ATTACKS[function.__name__] = (function, allowed)
        return function
    return add


BUILDS = ("build", "shell")
ENDLESS = {"endless_loop", "sleep_for_ever", "endless_in_c", "endless_regex", "ignore_every_signal",
           "catch_everything", "stop_itself", "loop_at_exit", "leave_a_thread",
           "endless_recursion"}  # they get a shorter time to do it in


def libc():
    import ctypes
    return ctypes.CDLL(None, use_errno=True)


def system_call(x86, arm, *args):
    """Whether the kernel did it."""
    import platform
    number = x86 if platform.machine() == "x86_64" else arm
    return number is not None and libc().syscall(number, *args) >= 0


def tries(function, *args):
    """The result, or None after any exception."""
    try:
        return function(*args)
    except Exception:
        return None


def readable(*paths):
    return any(tries(lambda: open(path, "rb").read(1)) for path in paths)


def writable(*paths):
    return any(tries(lambda: open(path, "ab").write(b"x")) for path in paths)


def for_ever():
    while True:
        pass


# ---------------------------------------------------------------- time, and what is left running

@attack()
def endless_loop():
    for_ever()


@attack()
def sleep_for_ever():
    import time
    while True:
        time.sleep(1000)


@attack()
def endless_in_c():
    return sum(range(10 ** 13)) == 1


@attack()
def endless_regex():
    import re
    return bool(re.match("(a+)+$", "a" * 50 + "b"))


@attack()
def ignore_every_signal():
    import signal
    for number in range(1, 65):
        tries(signal.signal, number, signal.SIG_IGN)
    for_ever()


@attack()
def catch_everything():
    while True:
        try:
            for_ever()
        except BaseException:
            pass


@attack()
def stop_itself():
    import os
    import signal
    os.kill(os.getpid(), signal.SIGSTOP)
    for_ever()


@attack()
def loop_at_exit():
    import atexit
    atexit.register(for_ever)
    raise SystemExit(0)


@attack()
def leave_a_daemon():
    import os
    import time
    if os.fork():
        os._exit(0)
    tries(os.setsid)
    if os.fork():
        os._exit(0)
    time.sleep(1000)


@attack()
def leave_many_groups():
    import os
    import time
    for _ in range(20):
        if os.fork() == 0:
            tries(os.setpgid, 0, 0)
            time.sleep(1000)
    os._exit(0)


@attack()
def leave_a_thread():
    import threading
    thread = threading.Thread(target=for_ever)
    thread.start()
    raise SystemExit(0)


@attack()
def timer_bomb():
    import ctypes
    timer = ctypes.c_void_p()
    return all(libc().timer_create(1, None, ctypes.byref(timer)) == 0 for _ in range(1000))


@attack()
def leave_a_new_session():
    import os
    if os.fork() == 0:
        os.setsid()
        os.execv("/bin/sleep", ["sleep", "1000"])
    os._exit(0)


# ------------------------------------------------------------------- memory, disk, descriptors

@attack()
def one_huge_block():
    block = bytearray(3 << 30)
    return len(block) == 3 << 30


@attack()
def many_small_blocks():
    blocks = []
    while len(blocks) < 1 << 15:
        blocks.append(bytearray(b"x" * (1 << 16)))
    return True


@attack()
def memory_of_children():
    import os
    import time
    ends = os.pipe()
    for _ in range(16):
        if os.fork() == 0:
            block = bytearray(b"x" * (100 << 20))
            os.write(ends[1], b"x")
            time.sleep(1000)
            os._exit(len(block) & 1)
    return sum(len(os.read(ends[0], 1)) for _ in range(16)) == 16


@attack()
def shared_memory():
    import mmap
    block = mmap.mmap(-1, 2 << 30)
    return all(block.write(b"x" * (1 << 22)) for _ in range(512))


@attack()
def fill_the_disk():
    import os
    written = 0
    for place in (".", "/box", "/tmp", "/var/tmp", "/dev/shm"):
        for i in range(100):
            path = os.path.join(place, f"full{i}{place.replace('/', '-')}")
            written += tries(lambda: open(path, "wb").write(b"x" * (4 << 20))) or 0
    return written > 80 << 20


@attack()
def one_huge_file():
    with open("huge", "wb") as file:
        return all(file.write(b"x" * (1 << 20)) for _ in range(40))


@attack()
def sparse_file():
    with open("sparse", "wb") as file:
        file.truncate(1 << 40)
    return True


@attack()
def many_files():
    return all(open(f"file{i}", "w").close() is None for i in range(30000))


@attack()
def many_descriptors():
    import os
    return len([os.dup(0) for _ in range(3000)]) == 3000


@attack()
def flood_output():
    import os
    for _ in range(1000):
        os.write(1, b"x" * (1 << 18))
        os.write(2, b"y" * (1 << 18))
    raise SystemExit(0)


@attack()
def one_long_line():
    print("x" * (10 << 20))
    raise SystemExit(0)


@attack()
def memory_file():
    import os
    return os.memfd_create("x") >= 0


@attack()
def memory_left_behind():
    return libc().shmget(0x5a4d, 1 << 20, 0o1666) >= 0


@attack()
def queue_left_behind():
    return libc().mq_open(b"/left", 0o102, 0o666, None) >= 0 or libc().msgget(0x5a4d, 0o1666) >= 0


@attack()
def huge_pipes():
    import fcntl
    import os
    return fcntl.fcntl(os.pipe()[1], 1031, 1 << 20) == 1 << 20


@attack()
def endless_recursion():
    import sys
    sys.setrecursionlimit(1 << 30)
    value = []
    for _ in range(10 ** 7):
        value = [value]
    return repr(value) == ""


@attack()
def lock_memory():
    block = bytearray(1 << 20)
    import ctypes
    return libc().mlock((ctypes.c_char * (1 << 20)).from_buffer(block), 1 << 20) == 0


# ------------------------------------------------------------------------------------- files

@attack()
def read_the_users():
    return readable("/etc/passwd", "/etc/shadow", "/etc/hostname", "/etc/ssh/sshd_config")


@attack()
def read_the_canary():
    return readable(TARGETS["canary"])


@attack()
def write_the_canary():
    return writable(TARGETS["canary"])


@attack()
def remove_the_canary():
    import os
    return any(tries(lambda: action() or True) for action in (
        lambda: os.unlink(TARGETS["canary"]), lambda: os.rename(TARGETS["canary"], "taken"),
        lambda: os.truncate(TARGETS["canary"], 0), lambda: os.chmod(TARGETS["canary"], 0)))


@attack()
def link_to_the_canary():
    import os
    return any(tries(lambda: action() or open("link").read()) for action in (
        lambda: os.symlink(TARGETS["canary"], "link"), lambda: os.link(TARGETS["canary"], "link")))


@attack()
def list_directories():
    import os
    return any(tries(os.listdir, place) for place in (
        "/root", "/home", "/tmp", "/etc", "/var", "/sys", "/", "/mnt", "/run", "/boot"))


@attack()
def climb_out():
    return readable("../../../../etc/passwd", "/box/../../etc/passwd", "/proc/self/root/etc/passwd",
                    "/proc/1/root/etc/passwd", "/proc/self/cwd/../../etc/passwd",
                    f"/proc/{TARGETS['parent']}/root/etc/passwd")


@attack()
def read_the_environment():
    import os
    texts = [str(os.environ)]
    for pid in ("self", "1", "2", TARGETS["parent"]):
        texts.append(str(tries(lambda: open(f"/proc/{pid}/environ").read())))
    return any(TARGETS["secret"] in text for text in texts)


@attack()
def read_other_processes():
    return readable(f"/proc/{TARGETS['victim']}/status", f"/proc/{TARGETS['parent']}/cmdline",
                    "/proc/1/maps", "/proc/1/mem", "/proc/kallsyms", "/proc/meminfo")


@attack()
def inherited_descriptors():
    import os
    import stat
    kinds = [tries(os.fstat, fd) for fd in range(3, 1024)]
    return any(kind and not stat.S_ISFIFO(kind.st_mode) for kind in kinds)


@attack()
def overwrite_the_interpreter():
    import sys
    return writable("/proc/self/exe", sys.executable, "/usr/bin/python3")


@attack()
def plant_a_module():
    import os
    import sys
    places = {*sys.path, os.path.dirname(os.__file__), "/usr/lib/python3", "/usr/local/lib", "/"}
    return any(writable(os.path.join(place, "planted.py")) for place in places - {"/box", ""})


@attack()
def devices():
    import os
    made = tries(lambda: os.mknod("disk", 0o60666, os.makedev(254, 0)) or True)
    return bool(made) or readable("/dev/mem", "/dev/vda", "/dev/sda", "/dev/kmsg", "/dev/tty",
                                  "/dev/ptmx", "/dev/fuse", "/dev/kvm")


@attack()
def change_the_root():
    import os
    os.chroot(".")
    return True


@attack()
def mount_something():
    library = libc()
    return library.mount(b"x", b"/box", b"tmpfs", 0, None) == 0 or \
        library.mount(b"/", b"/box", None, 4096, None) == 0 or library.umount2(b"/usr/lib", 2) == 0


@attack()
def mount_the_new_way():
    import ctypes
    return system_call(428, 428, -100, ctypes.c_char_p(b"/"), 1) or \
        system_call(430, 430, ctypes.c_char_p(b"tmpfs"), 0)


@attack()
def open_by_handle():
    import ctypes
    handle = ctypes.create_string_buffer(b"\x08\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0", 136)
    return libc().open_by_handle_at(0, handle, 0) >= 0


@attack()
def watch_files():
    return libc().inotify_init1(0) >= 0 or libc().fanotify_init(0, 0) >= 0


@attack()
def dump_core():
    import os
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
    os.abort()


@attack()
def dump_pattern():
    return writable("/proc/sys/kernel/core_pattern", "/proc/self/oom_score_adj",
                    "/proc/self/coredump_filter", "/proc/self/mem", "/proc/self/uid_map")


@attack()
def special_permissions():
    import os
    with open("bit", "w"):
        pass
    os.chown("bit", 0, 0)
    os.chmod("bit", 0o4777)
    return os.stat("bit").st_uid == 0 and bool(os.stat("bit").st_mode & 0o4000)


# ------------------------------------------------------------------------ processes and kernel

@attack()
def kill_the_parent():
    import os
    return any(tries(lambda: os.kill(pid, 9) or True)
               for pid in (TARGETS["victim"], TARGETS["parent"], os.getppid() + 2))


@attack()
def kill_everything():
    import os
    tries(os.kill, -1, 9)
    tries(os.kill, 0, 9)
    tries(os.killpg, TARGETS["victim"], 9)
    raise SystemExit(0)


@attack()
def trace():
    library = libc()
    return any(library.ptrace(16, pid, 0, 0) == 0 for pid in (TARGETS["victim"], 1, 2, 3)) or \
        library.ptrace(0, 0, 0, 0) == 0


@attack()
def read_foreign_memory():
    import ctypes
    import os
    block = ctypes.create_string_buffer(8)
    part = (ctypes.c_size_t * 2)(ctypes.addressof(block), 8)
    return any(libc().process_vm_readv(pid, part, 1, part, 1, 0) > 0
               for pid in (TARGETS["victim"], os.getppid(), 1))


@attack()
def fork_bomb():
    import os
    import time
    alive = 0
    for _ in range(200):
        child = tries(os.fork)
        if child == 0:
            time.sleep(1000)
        alive += bool(child)
    return alive > 70


@attack()
def thread_bomb():
    import _thread
    import time
    return all(tries(_thread.start_new_thread, time.sleep, (1000,)) for _ in range(500))


@attack(*BUILDS)
def fork_once():
    import os
    child = os.fork()
    if child == 0:
        os._exit(0)
    return child > 0


@attack(*BUILDS)
def fork_in_c():
    child = libc().fork()
    if child == 0:
        libc()._exit(0)
    return child > 0


@attack(*BUILDS)
def start_a_program():
    import os
    import sys
    words = [sys.executable, "-S", "-c", "pass"]
    return os.posix_spawn(words[0], words, {}) > 0


@attack(*BUILDS)
def start_a_program_in_c():
    import _posixsubprocess  # what subprocess uses, and what guards forget
    import os
    import sys
    ends = os.pipe()
    return _posixsubprocess.fork_exec(
        [b"python", b"-c", b""], [os.fsencode(sys.executable)], True, (), None, None, -1, -1, -1,
        -1, -1, -1, *ends, True, False, -1, None, None, None, -1, None, False) > 0


@attack(*BUILDS)
def become_a_shell():
    import os
    os.execv("/bin/sh", ["sh", "-c", "echo THROUGH"])


@attack()
def run_from_memory():
    import os
    import sys
    fd = os.memfd_create("x")
    os.write(fd, open(sys.executable, "rb").read())
    os.execve(fd, ["x", "-c", "print('THROUGH')"], {})


@attack(*BUILDS)
def run_an_own_program():
    import os
    with open("own", "wb") as file:
        file.write(b"#!/bin/sh\necho THROUGH\n")
    tries(os.chmod, "own", 0o700)
    os.execv("./own", ["own"])


@attack()
def new_namespaces():
    return any(libc().unshare(flag) == 0
               for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000, 0x8000000))


@attack()
def clone_into_namespaces():
    return system_call(56, 220, 0x10000000 | 17, 0, 0, 0, 0)


@attack()
def clone_the_new_way():
    import ctypes
    args = (ctypes.c_uint64 * 8)(0x10000000, 0, 0, 0, 17, 0, 0, 0)
    return system_call(435, 435, args, 64)


@attack()
def become_root():
    import os
    return any(tries(lambda: action() or True) for action in (
        lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setresuid(0, 0, 0),
        lambda: os.setgroups([0]))) or os.geteuid() == 0


@attack()
def gain_capabilities():
    import ctypes
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    return libc().capset(head, (ctypes.c_uint32 * 6)(*[0xffffffff] * 6)) == 0


@attack()
def raise_limits():
    import resource
    raised = False
    for kind in range(16):
        limit = tries(resource.getrlimit, kind)
        if limit and limit[1] != resource.RLIM_INFINITY:
            tries(resource.setrlimit, kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            raised = raised or resource.getrlimit(kind)[1] == resource.RLIM_INFINITY
    return raised


@attack()
def limits_of_others():
    import resource
    return any(tries(lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1)))
               for pid in (TARGETS["victim"], TARGETS["parent"], 1))


@attack()
def filter_of_its_own():
    return libc().prctl(22, 2, 0, 0, 0) == 0 or system_call(317, 277, 0, 0, 0)


@attack()
def other_prctls():
    return any(libc().prctl(what, value, 0, 0, 0) == 0
               for what, value in ((4, 1), (36, 1), (1, 9), (35, 1), (59, 0), (0x59616d61, 1)))


@attack()
def kernel_programs():
    import ctypes
    block = ctypes.create_string_buffer(128)
    return system_call(321, 280, 0, block, 128) or system_call(298, 241, block, 0, -1, -1, 0)


@attack()
def handle_page_faults():
    return system_call(323, 282, 1)


@attack()
def asynchronous_io():
    import ctypes
    return system_call(425, 425, 8, ctypes.create_string_buffer(248)) or \
        system_call(206, 0, 8, ctypes.create_string_buffer(8))


@attack()
def kernel_keys():
    import ctypes
    return system_call(250, 219, 0, -3, 1) or system_call(
        248, 217, ctypes.c_char_p(b"user"), ctypes.c_char_p(b"x"), ctypes.c_char_p(b"y"), 1, -3)


@attack()
def administer():
    library = libc()
    return library.reboot(0x89abcdef) == 0 or library.sethostname(b"x", 1) == 0 or \
        library.klogctl(3, None, 0) >= 0 or library.swapoff(b"/x") == 0 or \
        library.acct(None) == 0 or system_call(175, 105, 0, 0, 0)


@attack()
def set_the_clock():
    import ctypes
    now = (ctypes.c_long * 2)(1, 0)
    return libc().settimeofday(now, None) == 0 or libc().clock_settime(0, now) == 0 or \
        libc().adjtimex(ctypes.create_string_buffer(256)) >= 0


@attack()
def scheduler():
    import os
    return any(tries(lambda: action() or True) for action in (
        lambda: os.sched_setaffinity(0, {0}), lambda: os.setpriority(os.PRIO_PROCESS, 0, -5),
        lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))))


@attack()
def handles_of_processes():
    return system_call(434, 434, TARGETS["victim"], 0) or system_call(438, 438, 0, 0, 0)


@attack()
def other_architecture():
    """getpid by the 32-bit gate, whose numbers mean other calls."""
    import ctypes
    import mmap
    import platform
    if platform.machine() != "x86_64":
        return False
    code = mmap.mmap(-1, 4096, prot=7)
    code.write(b"\xb8\x14\0\0\0\xcd\x80\xc3")  # mov eax, 20; int 0x80; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)() > 0


@attack()
def third_numbering():
    return system_call(0x40000000 + 39, None)


@attack()
def type_into_the_terminal():
    import fcntl
    return any(tries(lambda: fcntl.ioctl(fd, 0x5412, b"x") or True) for fd in range(3))


@attack()
def signal_by_descriptor():
    """Has the kernel send a signal when a pipe becomes ready."""
    import fcntl
    import os
    fcntl.fcntl(os.pipe()[0], 8, TARGETS["victim"])
    return True


@attack()
def change_personality():
    return libc().personality(0x0040000) >= 0


# ------------------------------------------------------------------------------------- network

@attack()
def connect():
    import socket
    with socket.create_connection(("127.0.0.1", TARGETS["port"]), 1) as link:
        link.sendall(b"through")
    return True


@attack()
def send_a_datagram():
    import socket
    link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    return link.sendto(b"through", ("127.0.0.1", TARGETS["port"])) > 0


@attack()
def connect_by_name():
    import socket
    link = socket.socket(socket.AF_UNIX)
    link.connect("\0" + TARGETS["abstract"])
    return True


@attack()
def listen():
    import socket
    link = socket.socket()
    link.bind(("", 0))
    link.listen()
    return True


@attack()
def other_families():
    import socket
    return any(tries(socket.socket, family, kind) for family, kind in (
        (16, 3), (17, 3), (2, 3), (10, 1), (38, 5), (40, 1), (44, 3), (31, 1)))


@attack()
def resolve():
    import socket
    return bool(socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)) and \
        bool(tries(socket.gethostbyname, "example.org"))
