//! The peers that npm and PyPI offer: installed by name into a folder of their own, started as their documentation
//! says.

use super::error::{BenchError, cannot, wrong};
use super::finish;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long one installation may take.
const INSTALL_LIMIT: Duration = Duration::from_secs(300);

/// Where a peer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Registry {
    Npm,
    PyPi,
}

/// A gateway of somebody else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// What the page calls it.
    pub(crate) name: &'static str,
    registry: Registry,
    package: &'static str,
    /// The version that is asked for first; the newest where the registry no longer has it.
    version: &'static str,
    arguments: fn(port: u16, child: &str, folder: &Path) -> Vec<String>,
}

/// Every peer.
pub(crate) const PEERS: &[Peer] = &[
    Peer {
        name: "supergateway (npm)",
        registry: Registry::Npm,
        package: "supergateway",
        version: "4.0.0",
        arguments: |port, child, _| {
            let options = ["--outputTransport", "streamableHttp", "--stateful", "--logLevel", "none"];
            words(&["--stdio", child, "--port", &port.to_string()]).into_iter().chain(words(&options)).collect()
        },
    },
    Peer {
        name: "mcp-proxy (npm)",
        registry: Registry::Npm,
        package: "mcp-proxy",
        version: "6.7.19",
        arguments: |port, child, _| {
            words(&["--host", "127.0.0.1", "--server", "stream", "--port", &port.to_string(), "--", child])
        },
    },
    Peer {
        name: "mcp-proxy (PyPI)",
        registry: Registry::PyPi,
        package: "mcp-proxy",
        version: "0.13.0",
        arguments: |port, child, _| {
            words(&["--host", "127.0.0.1", "--log-level", "ERROR", "--port", &port.to_string(), "--", child])
        },
    },
    Peer {
        name: "fastmcp proxy (PyPI)",
        registry: Registry::PyPi,
        package: "fastmcp",
        version: "4.1.2",
        arguments: |port, _, folder| {
            let file = folder.join("servers.json").to_string_lossy().into_owned();
            let port = port.to_string();
            let options = ["--transport", "http", "--host", "127.0.0.1", "--no-banner", "--log-level", "ERROR"];
            words(&["run", &file, "--port", &port]).into_iter().chain(words(&options)).collect()
        },
    },
];

/// Where every peer has its endpoint.
pub(crate) const PATH: &str = "/mcp";

// === impl Peer ===

impl Peer {
    /// Installs the peer below `cache` unless it is there; returns the version that is installed.
    pub(crate) fn install(&self, cache: &Path) -> Result<String, BenchError> {
        let folder = self.folder(cache);
        stdx::durable::make_dir(&folder, 0o755).map_err(|error| wrong(error.to_string()))?;
        if let Ok(version) = self.installed(&folder) {
            return Ok(version);
        }
        if self.registry == Registry::PyPi {
            let mut command = Command::new("python3");
            command.args(["-m", "venv"]).arg(folder.join("venv"));
            finish(command, "make a Python environment", INSTALL_LIMIT)?;
        }
        let exact = self.fetch(&folder, Some(self.version));
        if exact.is_err() {
            self.fetch(&folder, None)?;
        }
        self.installed(&folder)
    }

    /// How to start the peer at `port` in front of `child`.
    pub(crate) fn command(&self, cache: &Path, port: u16, child: &Path) -> Result<Command, BenchError> {
        let folder = self.folder(cache);
        let child = child.to_string_lossy();
        // Read by fastmcp only: its documented way to name the server behind a proxy.
        let servers = serde_json::json!({"mcpServers": {"echo": {"command": child, "args": []}}}).to_string();
        stdx::durable::write_file(&folder.join("servers.json"), servers.as_bytes(), 0o644)
            .map_err(|error| wrong(error.to_string()))?;
        let mut command = Command::new(match self.registry {
            Registry::Npm => folder.join("node_modules/.bin").join(self.package),
            Registry::PyPi => folder.join("venv/bin").join(self.package),
        });
        command.args((self.arguments)(port, &child, &folder));
        Ok(command)
    }

    fn folder(&self, cache: &Path) -> PathBuf {
        let registry = if self.registry == Registry::Npm { "npm" } else { "pypi" };
        cache.join(format!("{registry}-{}", self.package))
    }

    fn fetch(&self, folder: &Path, version: Option<&str>) -> Result<(), BenchError> {
        let mut command = match self.registry {
            Registry::Npm => {
                let mut command = Command::new("npm");
                command.args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"]).arg(folder);
                command
            }
            Registry::PyPi => {
                let mut command = Command::new(folder.join("venv/bin/pip"));
                command.args(["install", "--quiet", "--disable-pip-version-check"]);
                command
            }
        };
        command.arg(match (self.registry, version) {
            (_, None) => self.package.to_owned(),
            (Registry::Npm, Some(version)) => format!("{}@{version}", self.package),
            (Registry::PyPi, Some(version)) => format!("{}=={version}", self.package),
        });
        finish(command, &format!("install {}", self.name), INSTALL_LIMIT).map(drop)
    }

    fn installed(&self, folder: &Path) -> Result<String, BenchError> {
        match self.registry {
            Registry::Npm => {
                let path = folder.join("node_modules").join(self.package).join("package.json");
                let text = std::fs::read(&path).map_err(cannot(format!("read {}", path.display())))?;
                let manifest: serde_json::Value =
                    serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
                let version = manifest["version"].as_str().map(str::to_owned);
                version.ok_or_else(|| wrong(format!("{} names no version", path.display())))
            }
            Registry::PyPi => {
                let mut command = Command::new(folder.join("venv/bin/python"));
                let script = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))";
                command.args(["-c", script, self.package]);
                finish(command, &format!("ask for the version of {}", self.name), INSTALL_LIMIT)
            }
        }
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16, BenchError> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(cannot("find a free port"))?;
    Ok(listener.local_addr().map_err(cannot("find a free port"))?.port())
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|word| (*word).to_owned()).collect()
}
