//! A filter that lets ownership and device calls succeed without effect, for a root of a single id.
//!
//! With one id mapped, chown(2) to any other is refused by the kernel, and package managers give up. Under
//! this filter such calls report success and change nothing. It grants nothing: it only hides refusals. chown and its kin can be
//! left to a process that writes down what was asked for (`recorder.rs`).
//! Programs of the machine's 32-bit ABI are treated alike; any other ABI is left alone.
//!
//! The filter is classic BPF (seccomp(2)): a table of numbers for each ABI, compared in turn.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{SecureComputingMode, secure_computing_mode};

use super::failure::{Context, Failure};
use super::kernel;

/// The calls of one ABI that succeed without effect.
struct Abi {
    /// AUDIT_ARCH_*, the kernel's name of the ABI.
    name: u32,
    /// chown and its kin.
    owners: &'static [(u32, Chown)],
    /// setuid and its kin, setgroups, capset.
    ignored: &'static [u32],
    /// Ignored for device nodes only, but not for the whiteouts of an overlay.
    mknod: Option<u32>,
    mknodat: u32,
}

/// How a call of chown's kin names its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chown {
    /// A path; a link at its end is followed.
    Path,
    /// A path; a link at its end is meant itself.
    Link,
    Descriptor,
    /// A directory, a path, and flags.
    At,
    /// As the first three, with ids of 16 bits.
    ShortPath,
    ShortLink,
    ShortDescriptor,
}

#[cfg(target_arch = "x86_64")]
const ABIS: &[Abi] = &[
    Abi {
        name: 0xC000_003E,
        owners: &[(92, Chown::Path), (93, Chown::Descriptor), (94, Chown::Link), (260, Chown::At)],
        ignored: &[105, 106, 113, 114, 116, 117, 119, 122, 123, 126],
        mknod: Some(133),
        mknodat: 259,
    },
    Abi { name: 0x4000_0003, owners: OWNERS_32, ignored: IGNORED_32, mknod: Some(14), mknodat: 297 },
];

#[cfg(target_arch = "aarch64")]
const ABIS: &[Abi] = &[
    Abi { name: 0xC000_00B7, owners: OWNERS_GENERIC, ignored: IGNORED_GENERIC, mknod: None, mknodat: 33 },
    Abi { name: 0x4000_0028, owners: OWNERS_32, ignored: IGNORED_32, mknod: Some(14), mknodat: 324 },
];

#[cfg(target_arch = "riscv64")]
const ABIS: &[Abi] =
    &[Abi { name: 0xC000_00F3, owners: OWNERS_GENERIC, ignored: IGNORED_GENERIC, mknod: None, mknodat: 33 }];

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
const ABIS: &[Abi] = &[];

/// i386 and 32-bit Arm share their early numbers; fchownat, the only later one, is 298 there and 325 here.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const OWNERS_32: &[(u32, Chown)] = &[
    (182, Chown::ShortPath),
    (16, Chown::ShortLink),
    (95, Chown::ShortDescriptor),
    (212, Chown::Path),
    (198, Chown::Link),
    (207, Chown::Descriptor),
    (if cfg!(target_arch = "x86_64") { 298 } else { 325 }, Chown::At),
];

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const IGNORED_32: &[u32] =
    &[23, 46, 70, 71, 164, 170, 138, 139, 81, 213, 214, 203, 204, 208, 210, 215, 216, 206, 185];

#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
const OWNERS_GENERIC: &[(u32, Chown)] = &[(54, Chown::At), (55, Chown::Descriptor)];

#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
const IGNORED_GENERIC: &[u32] = &[143, 144, 145, 146, 147, 149, 151, 152, 159, 91];

// Offsets in struct seccomp_data; arguments are 64 bits wide, lower half first on these machines.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// What is to succeed without effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emulated {
    /// Making device nodes only: ids are mapped, and changing ownership works.
    Devices,
    OwnershipAndDevices,
    /// The same, but chown and its kin wait for the answer of who listens.
    OwnershipAsked,
}

/// How a call of this ABI and number names the file whose owner it changes.
pub fn owner_call(architecture: u32, number: u32) -> Option<Chown> {
    let abi = ABIS.iter().find(|abi| abi.name == architecture)?;
    abi.owners.iter().find(|(known, _)| *known == number).map(|(_, how)| *how)
}

/// Lets such calls of this process and its descendants succeed without effect.
/// The descriptor to listen at, where `what` has somebody asked.
pub fn emulate(what: Emulated) -> Result<Option<OwnedFd>, Failure> {
    if ABIS.is_empty() {
        let machine = rustix::system::uname();
        let reason = format!(
            "root cannot be emulated on {} yet: building needs subordinate ids there",
            machine.machine().to_string_lossy()
        );
        return Err(Failure::because("seccomp", reason));
    }
    let program = program(what);
    let listener = match what {
        Emulated::OwnershipAsked => {
            Some(kernel::install_listening_filter(&program).failed("seccomp", "seccomp")?)
        }
        _ => kernel::install_filter(&program, false).failed("seccomp", "seccomp").map(|()| None)?,
    };
    match secure_computing_mode() {
        Ok(SecureComputingMode::Filter) => Ok(listener),
        _ => Err(Failure::because("seccomp", "the filter did not take effect")),
    }
}

/// Installs the filter of a profile, compiled by Python: one number an instruction, and reads back that it is there. From
/// here on it decides about this thread too, so nothing but execve(2) may follow.
pub fn confine(filter: &[u64]) -> Result<(), Failure> {
    if filter.is_empty() {
        return Ok(());
    }
    let program: Vec<libc::sock_filter> = filter
        .iter()
        .map(|&word| jump((word >> 48) as u16, word as u32, (word >> 40) as u8, (word >> 32) as u8))
        .collect();
    let Some(witness) = Witness::of_this_thread()? else {
        // Without a /proc inside, that the kernel took it is the proof.
        return kernel::install_filter(&program, true).failed("seccomp", "seccomp");
    };
    kernel::install_filter(&program, true).failed("seccomp", "seccomp")?;
    if witness.confirms() {
        Ok(())
    } else {
        Err(Failure::because("confinement", "the seccomp profile did not take effect"))
    }
}

/// A second thread, which no filter stops from reading what the kernel says of the first one. It ends with execve(2).
struct Witness(Arc<AtomicU8>);

const WAITING: u8 = 0;
const ASKED: u8 = 1;
const CONFIRMED: u8 = 2;
const DENIED: u8 = 3;

impl Witness {
    /// None where there is no procfs to read.
    fn of_this_thread() -> Result<Option<Witness>, Failure> {
        let status = match rustix::fs::open(
            "/proc/thread-self/status",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            // Nothing that an image has laid there.
            Ok(status)
                if rustix::fs::fstatfs(&status).is_ok_and(|fs| fs.f_type == rustix::fs::PROC_SUPER_MAGIC) =>
            {
                File::from(status)
            }
            _ => return Ok(None),
        };
        let Some(before) = filters(&status) else { return Ok(None) };
        let word = Arc::new(AtomicU8::new(WAITING));
        let shared = word.clone();
        let thread = std::thread::Builder::new().stack_size(1 << 16).spawn(move || {
            while shared.load(Ordering::Acquire) == WAITING {
                std::thread::sleep(Duration::from_micros(20));
            }
            let after = filters(&status);
            let is_there =
                after.is_some_and(|(mode, count)| mode == 2 && (count == 0 || count == before.1 + 1));
            shared.store(if is_there { CONFIRMED } else { DENIED }, Ordering::Release);
        });
        match thread {
            Ok(thread) => std::mem::forget(thread), // Letting go of it could need a call that the filter forbids.
            Err(error) => {
                return Err(Failure::because(
                    "confinement",
                    format!("the seccomp profile cannot be read back: {error}"),
                ));
            }
        }
        Ok(Some(Witness(word)))
    }

    /// Asks, and waits without any system call.
    fn confirms(self) -> bool {
        self.0.store(ASKED, Ordering::Release);
        loop {
            match self.0.load(Ordering::Acquire) {
                CONFIRMED => return true,
                DENIED => return false,
                _ => std::hint::spin_loop(),
            }
        }
    }
}

/// The mode of seccomp and the number of filters in a `status` of proc(5); 0 filters where the kernel does not count them.
fn filters(status: &File) -> Option<(u32, u32)> {
    let mut text = [0; 8192];
    let length = status.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(&text[..length]).ok()?;
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u32>().ok())
    };
    Some((field("Seccomp")?, field("Seccomp_filters").unwrap_or(0)))
}

fn program(what: Emulated) -> Vec<libc::sock_filter> {
    let mut program = vec![statement(LOAD, ARCHITECTURE)];
    for abi in ABIS {
        let block = block(abi, what);
        // Another ABI: over this block to the next one. Blocks are far shorter than a jump may be.
        program.push(jump(EQUAL, abi.name, 0, block.len() as u8));
        program.extend(block);
    }
    program.push(statement(RETURN, libc::SECCOMP_RET_ALLOW));
    program
}

/// What happens to a call of one ABI; every path through it returns.
fn block(abi: &Abi, what: Emulated) -> Vec<libc::sock_filter> {
    let (owners, ignored) =
        if what == Emulated::Devices { (&[][..], &[][..]) } else { (abi.owners, abi.ignored) };
    let asked = what == Emulated::OwnershipAsked;
    let mut block = vec![statement(LOAD, NUMBER)];
    // Behind the comparisons: one verdict for each kind, and how far it is from there is known at the end.
    for (position, (number, _)) in owners.iter().enumerate() {
        let behind = ignored.len() + owners.len() - position - 1;
        block.push(jump(EQUAL, *number, behind as u8 + 1 + u8::from(asked), 0));
    }
    for (position, number) in ignored.iter().enumerate() {
        let behind = ignored.len() - position - 1;
        block.push(jump(EQUAL, *number, behind as u8 + 1, 0));
    }
    // One more step leads over the verdicts to the device calls.
    block.push(jump((libc::BPF_JMP | libc::BPF_JA) as u16, 2, 0, 0));
    block.push(statement(RETURN, libc::SECCOMP_RET_ERRNO));
    block.push(statement(RETURN, libc::SECCOMP_RET_USER_NOTIF));
    for (number, mode) in abi.mknod.map(|number| (number, 1)).into_iter().chain([(abi.mknodat, 2)]) {
        let device = [
            statement(LOAD, argument(mode + 1)),
            jump(EQUAL, 0, 4, 0),
            statement(LOAD, argument(mode)),
            statement(AND, libc::S_IFMT),
            jump(EQUAL, libc::S_IFCHR, 2, 0),
            jump(EQUAL, libc::S_IFBLK, 1, 0),
            statement(RETURN, libc::SECCOMP_RET_ALLOW),
            statement(RETURN, libc::SECCOMP_RET_ERRNO),
        ];
        block.push(jump(EQUAL, number, 0, device.len() as u8));
        block.extend(device);
    }
    block.push(statement(RETURN, libc::SECCOMP_RET_ALLOW));
    block
}

fn statement(code: u16, k: u32) -> libc::sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter says of a call, by the rules of classic BPF.
    fn verdict(architecture: u32, number: u32, arguments: [u32; 4]) -> u32 {
        judge(&program(Emulated::OwnershipAndDevices), architecture, number, arguments)
    }

    fn judge(program: &[libc::sock_filter], architecture: u32, number: u32, arguments: [u32; 4]) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            match step.code {
                LOAD if step.k == NUMBER => value = number,
                LOAD if step.k == ARCHITECTURE => value = architecture,
                LOAD => value = arguments[(step.k as usize - 16) / 8],
                AND => value &= step.k,
                RETURN => return step.k,
                EQUAL => at += usize::from(if value == step.k { step.jt } else { step.jf }),
                _ => at += step.k as usize,
            }
        }
    }

    const DONE: u32 = libc::SECCOMP_RET_ERRNO;
    const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;

    #[test]
    fn ownership_calls_succeed_without_effect_in_every_abi() {
        for abi in ABIS {
            let owners = abi.owners.iter().map(|(number, _)| *number);
            for number in owners.chain(abi.ignored.iter().copied()) {
                assert_eq!(verdict(abi.name, number, [0; 4]), DONE, "{number}");
            }
            assert_eq!(verdict(abi.name, 0, [0; 4]), ALLOWED);
            assert_eq!(verdict(abi.name, 1, [0; 4]), ALLOWED);
        }
        assert_eq!(verdict(0x1234_5678, ABIS[0].ignored[0], [0; 4]), ALLOWED);
    }

    #[test]
    fn who_listens_is_asked_about_changes_of_owner_and_nothing_else() {
        let program = program(Emulated::OwnershipAsked);
        for abi in ABIS {
            for &(number, how) in abi.owners {
                assert_eq!(judge(&program, abi.name, number, [0; 4]), libc::SECCOMP_RET_USER_NOTIF);
                assert_eq!(owner_call(abi.name, number), Some(how));
            }
            for &number in abi.ignored {
                assert_eq!(judge(&program, abi.name, number, [0; 4]), DONE);
                assert_eq!(owner_call(abi.name, number), None);
            }
            let device = [7, 7, libc::S_IFCHR, 0x103];
            assert_eq!(judge(&program, abi.name, abi.mknodat, device), DONE);
            assert_eq!(judge(&program, abi.name, 1, [0; 4]), ALLOWED);
        }
    }

    #[test]
    fn ownership_calls_are_real_where_ids_are_mapped() {
        let program = program(Emulated::Devices);
        for abi in ABIS {
            let owners = abi.owners.iter().map(|(number, _)| *number);
            for number in owners.chain(abi.ignored.iter().copied()) {
                assert_eq!(judge(&program, abi.name, number, [0; 4]), ALLOWED, "{number}");
            }
            let device = [7, 7, libc::S_IFCHR, 0x103];
            assert_eq!(judge(&program, abi.name, abi.mknodat, device), DONE);
        }
    }

    #[test]
    fn device_nodes_are_not_made_but_fifos_and_whiteouts_are() {
        for abi in ABIS {
            let calls = abi.mknod.map(|number| (number, 0)).into_iter().chain([(abi.mknodat, 1)]);
            for (number, before) in calls {
                let call = |mode, device| {
                    let mut arguments = [7; 4];
                    (arguments[before + 1], arguments[before + 2]) = (mode, device);
                    verdict(abi.name, number, arguments)
                };
                assert_eq!(call(libc::S_IFCHR | 0o666, 0x103), DONE);
                assert_eq!(call(libc::S_IFBLK | 0o666, 0x800), DONE);
                assert_eq!(call(libc::S_IFIFO | 0o666, 0x103), ALLOWED);
                assert_eq!(call(libc::S_IFCHR, 0), ALLOWED);
            }
        }
    }
}
