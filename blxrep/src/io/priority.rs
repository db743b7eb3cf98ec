//! How urgent the disk takes the reads of this thread to be.

use std::io;

/// From linux/ioprio.h: whose priority, and the class in which the disk is used only when nobody else wants it.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_IDLE: libc::c_int = 3;
const IOPRIO_CLASS_SHIFT: libc::c_int = 13;
const THIS_THREAD: libc::c_int = 0;

/// Reads of this thread wait for everybody else's, where the disk's scheduler knows priorities (bfq, mq-deadline).
pub fn set_idle() -> io::Result<()> {
    // SAFETY: takes three integers and touches no memory of this process.
    let result = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            THIS_THREAD,
            IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_thread_that_asks_becomes_idle() {
        fn class() -> i64 {
            // SAFETY: takes two integers and touches no memory of this process.
            let priority = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, THIS_THREAD) };
            priority >> IOPRIO_CLASS_SHIFT
        }
        let idle = std::thread::spawn(|| {
            set_idle().unwrap();
            class()
        });
        assert_eq!(idle.join().unwrap(), i64::from(IOPRIO_CLASS_IDLE));
        assert_ne!(class(), i64::from(IOPRIO_CLASS_IDLE));
    }
}
