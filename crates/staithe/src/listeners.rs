//! The listening sockets: the service manager's, else taken over from whoever had them before, so that no connection is refused in between, else bound
//! anew and left with the keeper for whoever comes next.

use crate::fault;
use crate::systemd;
use model::Problem;
use std::net::SocketAddr;
use supervisor::Keeper;
use tokio::net::TcpListener;

/// A listener with its address, and what the keeper knows it by.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) listener: TcpListener,
    pub(crate) at: SocketAddr,
}

/// The public listener's name.
pub(crate) const PUBLIC: &str = "public";
/// The operator listener's name.
pub(crate) const OPERATOR: &str = "operator";

/// A listener on `address`. Port 0 stands for whichever port was listened on before, else for a free one.
pub(crate) async fn open(keeper: &Keeper, name: &str, address: SocketAddr, key: &str) -> Result<Listening, Problem> {
    let hint = format!("choose another address with {key}; port 0 picks a free one");
    let failed = |error: std::io::Error| fault::because(&format!("listen on {address}"), &error, &hint);
    let kept = |error| fault::because("leave the listening socket with the keeper", &error, "");
    if let Some(passed) = systemd::passed(name)? {
        let passed = std::net::TcpListener::from(passed);
        let at = passed.local_addr().map_err(failed)?;
        // A later daemon gets it from the keeper and goes by its own configuration: two truths would part them.
        if !stands_for(address, at) {
            let message =
                format!("the service manager passed a listener on {at}, and this daemon is to listen on {address}");
            return Err(fault::usage(message, hint));
        }
        passed.set_nonblocking(true).map_err(failed)?;
        keeper.hold(name, passed.try_clone().map_err(failed)?.into()).await.map_err(kept)?;
        return Ok(Listening { listener: TcpListener::from_std(passed).map_err(failed)?, at });
    }
    if let Some(held) = keeper.listener(name).await.map_err(kept)? {
        let held = std::net::TcpListener::from(held);
        let at = held.local_addr().map_err(failed)?;
        if stands_for(address, at) {
            held.set_nonblocking(true).map_err(failed)?;
            let double = held.try_clone().map_err(failed)?;
            keeper.hold(name, double.into()).await.map_err(kept)?;
            return Ok(Listening { listener: TcpListener::from_std(held).map_err(failed)?, at });
        }
        keeper.drop_listener(name).await.map_err(kept)?;
    }
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let at = listener.local_addr().map_err(failed)?;
    let bound = listener.into_std().map_err(failed)?;
    keeper.hold(name, bound.try_clone().map_err(failed)?.into()).await.map_err(kept)?;
    Ok(Listening { listener: TcpListener::from_std(bound).map_err(failed)?, at })
}

/// Whether a listener at `at` is what `address` asks for.
fn stands_for(address: SocketAddr, at: SocketAddr) -> bool {
    at.ip() == address.ip() && (address.port() == 0 || address.port() == at.port())
}
