//! What a service manager is told about the process that it started.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// How long a service manager that does not read is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells the service manager at `to` (the value of `NOTIFY_SOCKET`: a path, or `@` and an abstract name) lines like
/// `READY=1`. Blocks for at most a second.
///
/// # Errors
/// When nobody listens there, or does not read.
pub fn notify(to: &OsStr, lines: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    match to.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.send_to_addr(lines.as_bytes(), &SocketAddr::from_abstract_name(name)?)?,
        None => socket.send_to(lines.as_bytes(), to)?,
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::notify;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    #[test]
    fn both_kinds_of_names_are_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("staithe-notify-{}", std::process::id());
        let at_path = UnixDatagram::bind(&path).unwrap();
        let at_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        notify(path.as_os_str(), "READY=1").unwrap();
        notify(format!("@{name}").as_ref(), "STATUS=a b").unwrap();
        for (socket, wanted) in [(at_path, "READY=1"), (at_name, "STATUS=a b")] {
            socket.set_nonblocking(true).unwrap();
            let mut said = [0; 64];
            let length = socket.recv(&mut said).unwrap();
            assert_eq!(std::str::from_utf8(&said[..length]).unwrap(), wanted);
        }
        notify(dir.path().join("nobody").as_os_str(), "READY=1").unwrap_err();
    }
}
