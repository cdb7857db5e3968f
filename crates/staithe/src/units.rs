//! The text of the systemd units. Nothing is read or written here.

use std::net::SocketAddr;

/// What the units are about. Paths hold no character that means something in a unit.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What the units are called.
    pub(crate) name: String,
    /// The program.
    pub(crate) program: String,
    pub(crate) state_dir: String,
    /// Whose units they are.
    pub(crate) owner: Owner,
    /// The public listener, where systemd holds it.
    pub(crate) socket: Option<SocketAddr>,
}

/// Whose units they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The machine's; systemd makes the state directory below /var/lib if `makes_state`.
    Machine { makes_state: bool },
    /// One user's.
    User,
}

/// What both services keep from whatever they start. Nothing here stops npx, uvx or a just-in-time compiler.
const HARDENED: &str = "\
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
";

impl Plan {
    /// Each unit's file name and text.
    pub(crate) fn units(&self) -> Vec<(String, String)> {
        let name = &self.name;
        let mut units =
            vec![(format!("{name}-keeper.service"), self.keeper()), (format!("{name}.service"), self.daemon())];
        units.extend(self.socket.map(|at| (format!("{name}.socket"), self.socket(at))));
        units
    }

    fn keeper(&self) -> String {
        let Self { name, program, state_dir, .. } = self;
        let mut text = format!(
            "\
# Written by `staithe install-service`. Change it with `systemctl edit {name}-keeper`.
[Unit]
Description=the parent of the MCP servers of {name}

[Service]
Type=notify
ExecStart={program} keeper --state-dir {state_dir}
# The keeper ends its servers in order; what is left of them after that is killed.
KillMode=mixed
TimeoutStopSec=30
# It ends by itself when no daemon came for 15 minutes.
Restart=on-failure
# A group of its own for each server, where limits are set. One that runs out of memory takes no other along.
Delegate=yes
OOMPolicy=continue
TasksMax=infinity
# The keeper takes all that it may, servers get the first: some are slow or wrong with more.
LimitNOFILE=1024:524288
"
        );
        text.push_str(HARDENED);
        if let Owner::Machine { makes_state } = self.owner {
            text.push_str(
                "\
# What is set here holds for every server, for they are children of the keeper. The system is read-only to them; data
# elsewhere is guarded by its permissions. No MemoryDenyWriteExecute (V8 compiles), no RestrictNamespaces (browsers).
ProtectSystem=full
ProtectHome=read-only
",
            );
            text.push_str(&self.machine(makes_state));
        }
        text
    }

    fn daemon(&self) -> String {
        let Self { name, program, state_dir, .. } = self;
        let listen = self.socket.map(|at| format!(" --listen {at}")).unwrap_or_default();
        let also = self.socket.map(|_| format!("Also={name}.socket\n")).unwrap_or_default();
        let requires = self.socket.map(|_| format!("Requires={name}.socket\n")).unwrap_or_default();
        let wanted_by = if self.owner == Owner::User { "default.target" } else { "multi-user.target" };
        // A user's systemd knows nothing of the network.
        let network =
            if self.owner == Owner::User { "" } else { "Wants=network-online.target\nAfter=network-online.target\n" };
        let mut text = format!(
            "\
# Written by `staithe install-service`. Change it with `systemctl edit {name}`.
[Unit]
Description={name}, a host for MCP servers
{network}# Stopping the keeper stops this too. Not BindsTo: a keeper that crashes is started again, and this daemon goes on with it.
Requires={name}-keeper.service
After={name}-keeper.service
{requires}StartLimitIntervalSec=0

[Service]
Type=notify
# During an upgrade the new daemon speaks beside the old one. Servers are in the group of the keeper and are not heard.
NotifyAccess=all
ExecStart={program} serve --state-dir {state_dir} --leave-servers --keeper-runs{listen}
# Another process takes over; no call fails.
ExecReload={program} upgrade --state-dir {state_dir}
TimeoutStartSec=150
# More than `limits.drain`.
TimeoutStopSec=60
WatchdogSec=30
KillMode=mixed
Restart=always
RestartSec=1
# A mistake in the configuration does not mend itself.
RestartPreventExitStatus=2
LimitNOFILE=524288
UMask=0077
"
        );
        text.push_str(HARDENED);
        if let Owner::Machine { makes_state } = self.owner {
            text.push_str(
                "\
# The daemon writes nowhere but in its state directory. It reads files that name headers for remote servers.
ProtectSystem=strict
ProtectHome=read-only
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
",
            );
            text.push_str(&self.machine(makes_state));
        }
        text.push_str(&format!("\n[Install]\nWantedBy={wanted_by}\n{also}"));
        text
    }

    /// What both services of a machine have.
    fn machine(&self, makes_state: bool) -> String {
        let Self { name, state_dir, .. } = self;
        let state = if makes_state {
            format!("StateDirectory={name}\nStateDirectoryMode=0700\n")
        } else {
            format!("ReadWritePaths={state_dir}\n")
        };
        format!(
            "\
CapabilityBoundingSet=
PrivateTmp=yes
User={name}
{state}# npx and uvx keep what they install in HOME. Servers get this HOME and this PATH.
Environment=HOME={state_dir}
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"
        )
    }

    fn socket(&self, at: SocketAddr) -> String {
        let name = &self.name;
        format!(
            "\
# Written by `staithe install-service`. The address stands in {name}.service too (--listen).
[Unit]
Description=the public listener of {name}

[Socket]
ListenStream={at}
FileDescriptorName=public

[Install]
WantedBy=sockets.target
"
        )
    }
}
