//! A legacy MCP server that misbehaves: one flag for each trap that hosted servers have been seen to set. Flags combine;
//! without any it is a plain server with the tools `echo`, `sleep`, `counter` and `pid`.
//!
//! Nothing here outlives ten minutes, so that a test that fails leaves nothing behind for long.

use clap::Parser;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The longest life of anything here that does not want to end.
const LONGEST_LIFE: Duration = Duration::from_secs(600);
/// The longest line that is read.
const MAX_LINE: u64 = 64 << 20;
const CHUNK: usize = 64 << 10;
/// What `--unknown-fields` adds to every result.
const UNKNOWN: &str = r#""x_unknown":{"deep":[1,{"none":null}]},"x_big":1234567890123456789012345,"x_decimal":1.10"#;

/// A legacy MCP server that misbehaves as told.
#[derive(Debug, Parser)]
struct Flags {
    /// Print a banner, a byte order mark and debug lines on stdout; end lines with CRLF.
    #[arg(long)]
    banner: bool,
    /// Never answer ping.
    #[arg(long)]
    ignore_ping: bool,
    /// Answer ping with "method not found".
    #[arg(long, conflicts_with = "ignore_ping")]
    refuse_ping: bool,
    /// Never answer tools/list.
    #[arg(long)]
    ignore_lists: bool,
    /// Describe the tool `echo` with what this file says at each tools/list.
    #[arg(long, value_name = "FILE")]
    describe_from: Option<PathBuf>,
    /// Take this long for each tools/list, and read nothing meanwhile.
    #[arg(long, value_name = "N")]
    slow_list_ms: Option<u64>,
    /// Answer nothing and read nothing from the call after this many on.
    #[arg(long, value_name = "N")]
    deadlock_after: Option<u64>,
    /// The tool `spin` computes for ever.
    #[arg(long)]
    spin: bool,
    /// The tool `busy` computes this many milliseconds and reads nothing meanwhile.
    #[arg(long, value_name = "N")]
    busy_ms: Option<u64>,
    /// The tool `long` answers with one line of this many bytes.
    #[arg(long, value_name = "BYTES")]
    long_line: Option<usize>,
    /// The tool `die` exits with this code and does not answer.
    #[arg(long, value_name = "CODE")]
    exit_on_call: Option<u8>,
    /// Exit with code 1 right after the answer to this many calls.
    #[arg(long, value_name = "N")]
    die_after: Option<u64>,
    /// Start a grandchild in a session of its own that ignores SIGTERM and SIGHUP.
    #[arg(long, requires = "pid_file")]
    double_fork: bool,
    /// The grandchild keeps stdout and stderr open.
    #[arg(long, requires = "double_fork")]
    hold_pipes: bool,
    /// Where the grandchild writes its process id.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Go on living when stdin ends.
    #[arg(long)]
    ignore_eof: bool,
    /// Ignore SIGTERM.
    #[arg(long)]
    ignore_term: bool,
    /// Exit when the first message is not initialize.
    #[arg(long)]
    exit_on_discover: bool,
    /// Exit when initialize comes twice.
    #[arg(long)]
    reject_second_initialize: bool,
    /// The tool `stall` is never answered, and nothing is read after it.
    #[arg(long)]
    stop_reading: bool,
    /// Write this many lines on stderr before the first message is read.
    #[arg(long, value_name = "LINES")]
    flood_stderr: Option<u64>,
    /// The tool `mute` closes stdout, and the process lives on.
    #[arg(long)]
    close_stdout: bool,
    /// The tool `flood` reports progress this many times before it answers; other calls are served meanwhile.
    #[arg(long, value_name = "N")]
    flood_progress: Option<u64>,
    /// The tool `spill` writes lines that are no messages as fast as they are taken, for `ms`, on stderr with `stderr`; other
    /// calls are served meanwhile.
    #[arg(long)]
    spill: bool,
    /// The tool `hog` takes memory, at most 1 GiB, and does not answer; `bomb` starts processes that start processes, 127 in all.
    #[arg(long)]
    hungry: bool,
    /// The tool `steps` reports progress four times, each after this many milliseconds, and reads nothing meanwhile.
    #[arg(long, value_name = "N")]
    step_ms: Option<u64>,
    /// The tool `both` answers with a result and an error.
    #[arg(long)]
    both: bool,
    /// Answer every call with a JSON array.
    #[arg(long)]
    batch: bool,
    /// Wait this long before the answer to initialize.
    #[arg(long, value_name = "N")]
    silent_start_ms: Option<u64>,
    /// Add unknown members and unusual numbers to every result.
    #[arg(long)]
    unknown_fields: bool,
    /// Be the child that starts the grandchild.
    #[arg(long, hide = true)]
    middle: bool,
    /// Be the grandchild.
    #[arg(long, hide = true)]
    leaf: bool,
    /// Be a process that starts two more, so many times.
    #[arg(long, hide = true, value_name = "TIMES")]
    bomb: Option<u8>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if let Some(times) = flags.bomb {
        return be_bomb(times);
    }
    let outcome = match (&flags.pid_file, flags.middle, flags.leaf) {
        (Some(pid_file), true, _) => be_middle(pid_file, flags.hold_pipes),
        (Some(pid_file), _, true) => be_leaf(pid_file),
        _ => serve(flags),
    };
    outcome.unwrap_or_else(|error| {
        complain(&format!("odd: {error}"));
        ExitCode::FAILURE
    })
}

/// A line on stderr. If it cannot be written there is nobody to tell.
fn complain(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

// The double fork: this process, a child that leads a new session and exits, and the grandchild that stays.

fn start_grandchild(pid_file: &Path, hold_pipes: bool) -> io::Result<()> {
    let status = again("--middle", pid_file, hold_pipes)?.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other("the child of the double fork failed")) }
}

/// This program again, in another role.
fn again(role: &str, pid_file: &Path, hold_pipes: bool) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([role, "--double-fork", "--pid-file"]).arg(pid_file).stdin(Stdio::null());
    if hold_pipes {
        command.arg("--hold-pipes");
    } else {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    }
    Ok(command)
}

fn be_middle(pid_file: &Path, hold_pipes: bool) -> io::Result<ExitCode> {
    rustix::process::setsid()?;
    again("--leaf", pid_file, hold_pipes)?.spawn()?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::disallowed_methods, reason = "a pid file of a test needs no durability; the rename makes it whole")]
fn be_leaf(pid_file: &Path) -> io::Result<ExitCode> {
    let _runtime = ignore_signals()?;
    let beside = pid_file.with_extension("new");
    std::fs::write(&beside, std::process::id().to_string())?;
    std::fs::rename(&beside, pid_file)?;
    std::thread::sleep(LONGEST_LIFE);
    Ok(ExitCode::SUCCESS)
}

/// Starts two processes that do the same, `times` times, and stays. It keeps the pipes open.
fn be_bomb(times: u8) -> ExitCode {
    for _ in 0..if times == 0 { 0 } else { 2 } {
        if let Err(error) = bomb(times - 1) {
            complain(&format!("odd: no process: {error}"));
        }
    }
    std::thread::sleep(LONGEST_LIFE / 10);
    ExitCode::SUCCESS
}

fn bomb(times: u8) -> io::Result<()> {
    Command::new(std::env::current_exe()?).args(["--bomb", &times.to_string()]).stdin(Stdio::null()).spawn()?;
    Ok(())
}

/// Takes 100 MiB of memory a second, up to 1 GiB, and stays for a while.
fn hog() {
    let mut taken = Vec::new();
    for _ in 0..256 {
        taken.push(vec![1_u8; 4 << 20]);
        std::thread::sleep(Duration::from_millis(40));
    }
    std::thread::sleep(LONGEST_LIFE / 10);
    drop(std::hint::black_box(taken));
}

/// From now on SIGTERM and SIGHUP do nothing. The runtime must stay alive as long as that holds.
fn ignore_signals() -> io::Result<tokio::runtime::Runtime> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    // Once tokio has installed its handler, dropping the listener does not bring the default action back.
    drop((signal(SignalKind::terminate())?, signal(SignalKind::hangup())?));
    drop(entered);
    Ok(runtime)
}

// The server.

#[derive(Debug, Deserialize)]
struct Incoming {
    #[serde(default, deserialize_with = "present")]
    id: Option<Box<RawValue>>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
}

fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(from).map(Some)
}

/// What the reading loop does next.
enum Next {
    Read,
    Exit(u8),
}

#[derive(Debug)]
struct Server {
    flags: Flags,
    output: Arc<Output>,
    initialized: bool,
    calls: u64,
    counter: u64,
}

fn serve(flags: Flags) -> io::Result<ExitCode> {
    let _runtime = if flags.ignore_term { Some(ignore_signals()?) } else { None };
    if let (true, Some(pid_file)) = (flags.double_fork, &flags.pid_file) {
        start_grandchild(pid_file, flags.hold_pipes)?;
    }
    for line in 0..flags.flood_stderr.unwrap_or(0) {
        complain(&format!("flood {line} of lines on stderr that nobody asked for"));
    }
    let output = Arc::new(Output { banner: flags.banner, marked: Mutex::new(false) });
    if flags.banner {
        output
            .write(b"Odd server 1.0 is starting...\r\n\r\n{\"level\":\"info\",\"msg\":\"listening on stdio\"}\r\n")?;
    }
    let mut server = Server { flags, output, initialized: false, calls: 0, counter: 0 };
    let mut input = io::stdin().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if let Next::Exit(code) = server.receive(&line)? {
            return Ok(ExitCode::from(code));
        }
    }
    if server.flags.ignore_eof {
        std::thread::sleep(LONGEST_LIFE);
    }
    Ok(ExitCode::SUCCESS)
}

impl Server {
    fn receive(&mut self, line: &[u8]) -> io::Result<Next> {
        let Ok(incoming) = serde_json::from_slice::<Incoming>(line) else {
            complain("odd: a line that is no message was ignored");
            return Ok(Next::Read);
        };
        let (Some(method), first) = (incoming.method, !self.initialized) else { return Ok(Next::Read) };
        if self.flags.exit_on_discover && first && method != "initialize" {
            complain(&format!("odd: expected initialize, got {method}"));
            return Ok(Next::Exit(1));
        }
        if self.flags.reject_second_initialize && !first && method == "initialize" {
            complain("odd: initialize came twice");
            return Ok(Next::Exit(1));
        }
        let Some(id) = incoming.id else { return Ok(Next::Read) };
        match method.as_str() {
            "initialize" => {
                self.initialized = true;
                std::thread::sleep(Duration::from_millis(self.flags.silent_start_ms.unwrap_or(0)));
                self.result(&id, &initialize(&incoming.params))?;
            }
            "ping" if self.flags.ignore_ping => {}
            "tools/list" if self.flags.ignore_lists => {}
            "ping" if !self.flags.refuse_ping => self.result(&id, "")?,
            "tools/list" => {
                std::thread::sleep(Duration::from_millis(self.flags.slow_list_ms.unwrap_or(0)));
                self.result(&id, &self.list())?;
            }
            "tools/call" => return self.call(&id, &incoming.params),
            _ => self.output.message(&error(&id, -32601, &format!("Method not found: {method}")))?,
        }
        Ok(Next::Read)
    }

    fn call(&mut self, id: &RawValue, params: &Value) -> io::Result<Next> {
        let arguments = &params["arguments"];
        if self.flags.deadlock_after.is_some_and(|most| self.calls >= most) {
            std::thread::sleep(LONGEST_LIFE);
        }
        match params["name"].as_str().unwrap_or_default() {
            "echo" => self.text(id, &arguments.to_string())?,
            "counter" => {
                self.counter += 1;
                self.text(id, &self.counter.to_string())?;
            }
            "pid" => self.text(id, &std::process::id().to_string())?,
            "sleep" => self.sleep(id, Duration::from_millis(arguments["ms"].as_u64().unwrap_or(0)))?,
            "busy" if self.flags.busy_ms.is_some() => {
                let until = stdx::clock::monotonic() + Duration::from_millis(self.flags.busy_ms.unwrap_or(0));
                while stdx::clock::monotonic() < until {
                    std::hint::spin_loop();
                }
                self.text(id, "done")?;
            }
            "steps" if self.flags.step_ms.is_some() => {
                let (token, time) = (&params["_meta"]["progressToken"], self.flags.step_ms.unwrap_or(0));
                for step in 1..=4 {
                    std::thread::sleep(Duration::from_millis(time).min(LONGEST_LIFE));
                    self.output.message(&progress(&token.to_string(), step, ""))?;
                }
                self.text(id, "done")?;
            }
            "flood" if self.flags.flood_progress.is_some() => self.flood(id, &params["_meta"]["progressToken"])?,
            "spill" if self.flags.spill => self.spill(id, arguments)?,
            "hog" if self.flags.hungry => hog(),
            "bomb" if self.flags.hungry => bomb(6)?,
            "long" if self.flags.long_line.is_some() => {
                self.output.long_answer(id, self.flags.long_line.unwrap_or(0))?;
            }
            "die" if self.flags.exit_on_call.is_some() => {
                complain("odd: fatal: the disk is on fire");
                return Ok(Next::Exit(self.flags.exit_on_call.unwrap_or(1)));
            }
            "spin" if self.flags.spin => {
                let until = stdx::clock::monotonic() + LONGEST_LIFE;
                while stdx::clock::monotonic() < until {
                    std::hint::spin_loop();
                }
            }
            "stall" if self.flags.stop_reading => std::thread::sleep(LONGEST_LIFE),
            "mute" if self.flags.close_stdout => {
                let nowhere = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
                rustix::stdio::dup2_stdout(nowhere.as_fd())?;
            }
            "both" if self.flags.both => {
                let result = r#""result":{"content":[{"type":"text","text":"yes and no"}]}"#;
                let error = r#""error":{"code":-32603,"message":"no and yes"}"#;
                self.output.message(&format!(r#"{{"jsonrpc":"2.0","id":{},{result},{error}}}"#, id.get()))?;
            }
            name => self.output.message(&error(id, -32602, &format!("Unknown tool: {name}")))?,
        }
        self.calls += 1;
        let worn_out = self.flags.die_after.is_some_and(|most| self.calls >= most);
        Ok(if worn_out { Next::Exit(1) } else { Next::Read })
    }

    /// Answers later, and reads on meanwhile.
    fn sleep(&self, id: &RawValue, time: Duration) -> io::Result<()> {
        let (output, answer) = (Arc::clone(&self.output), self.wrapped(&self.answer(id, &content("slept"))));
        std::thread::Builder::new().spawn(move || {
            std::thread::sleep(time.min(LONGEST_LIFE));
            // An error means that stdout is gone; the reading loop will notice.
            let _ = output.message(&answer);
        })?;
        Ok(())
    }

    /// Reports progress as fast as it is read, and reads on meanwhile.
    fn flood(&self, id: &RawValue, token: &Value) -> io::Result<()> {
        let (output, answer) = (Arc::clone(&self.output), self.wrapped(&self.answer(id, &content("flooded"))));
        let (times, token) = (self.flags.flood_progress.unwrap_or(0), token.to_string());
        std::thread::Builder::new().spawn(move || {
            for step in 0..times {
                if output.message(&progress(&token, step, &"x".repeat(200))).is_err() {
                    return;
                }
            }
            // An error means that stdout is gone; the reading loop will notice.
            let _ = output.message(&answer);
        })?;
        Ok(())
    }

    /// Answers at once, spills on, and reads on meanwhile.
    fn spill(&self, id: &RawValue, arguments: &Value) -> io::Result<()> {
        let time = Duration::from_millis(arguments["ms"].as_u64().unwrap_or(0)).min(LONGEST_LIFE);
        let words = usize::try_from(arguments["words"].as_u64().unwrap_or(1)).unwrap_or(1).min(1000);
        let line = format!("{}\n", "spilt ".repeat(words));
        let (block, to_stderr) = (line.repeat(CHUNK / line.len()), arguments["stderr"] == true);
        let output = Arc::clone(&self.output);
        std::thread::Builder::new().spawn(move || {
            let until = stdx::clock::monotonic() + time;
            while stdx::clock::monotonic() < until {
                let _turn = output.marked.lock().unwrap_or_else(PoisonError::into_inner);
                let spilt =
                    if to_stderr { io::stderr().write_all(block.as_bytes()) } else { output.write(block.as_bytes()) };
                if spilt.is_err() {
                    return;
                }
            }
        })?;
        self.text(id, "spilling")
    }

    fn text(&self, id: &RawValue, text: &str) -> io::Result<()> {
        self.output.message(&self.wrapped(&self.answer(id, &content(text))))
    }

    fn result(&self, id: &RawValue, members: &str) -> io::Result<()> {
        self.output.message(&self.answer(id, members))
    }

    fn answer(&self, id: &RawValue, members: &str) -> String {
        let unknown = if self.flags.unknown_fields { UNKNOWN } else { "" };
        let comma = if members.is_empty() || unknown.is_empty() { "" } else { "," };
        format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{{members}{comma}{unknown}}}}}"#, id.get())
    }

    fn wrapped(&self, answer: &str) -> String {
        if self.flags.batch { format!("[{answer}]") } else { answer.to_owned() }
    }

    fn list(&self) -> String {
        let flags = &self.flags;
        let traps = [
            ("echo", true),
            ("sleep", true),
            ("counter", true),
            ("pid", true),
            ("busy", flags.busy_ms.is_some()),
            ("flood", flags.flood_progress.is_some()),
            ("spill", flags.spill),
            ("hog", flags.hungry),
            ("bomb", flags.hungry),
            ("steps", flags.step_ms.is_some()),
            ("long", flags.long_line.is_some()),
            ("die", flags.exit_on_call.is_some()),
            ("spin", flags.spin),
            ("stall", flags.stop_reading),
            ("mute", flags.close_stdout),
            ("both", flags.both),
        ];
        let said = flags.describe_from.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        let tool = |name: &str| match said.as_ref().filter(|_| name == "echo") {
            Some(said) => format!(r#"{{"name":"echo","description":"{said}","inputSchema":{{"type":"object"}}}}"#),
            None => format!(r#"{{"name":"{name}","inputSchema":{{"type":"object"}}}}"#),
        };
        let tools: Vec<String> = traps.iter().filter(|(_, set)| *set).map(|(name, _)| tool(name)).collect();
        format!(r#""tools":[{}]"#, tools.join(","))
    }
}

fn progress(token: &str, step: u64, words: &str) -> String {
    let params = format!(r#"{{"progressToken":{token},"progress":{step},"message":"{words}"}}"#);
    format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{params}}}"#)
}

fn initialize(params: &Value) -> String {
    const KNOWN: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
    let version = params["protocolVersion"].as_str().filter(|asked| KNOWN.contains(asked)).unwrap_or(KNOWN[3]);
    let server = r#""capabilities":{"tools":{}},"serverInfo":{"name":"odd","version":"1.0"}"#;
    format!(r#""protocolVersion":"{version}",{server}"#)
}

fn content(text: &str) -> String {
    format!(r#""content":[{{"type":"text","text":{}}}]"#, Value::from(text))
}

fn error(id: &RawValue, code: i32, message: &str) -> String {
    let (id, message) = (id.get(), Value::from(message));
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":{message}}}}}"#)
}

/// stdout, in whole messages.
#[derive(Debug)]
struct Output {
    banner: bool,
    /// True once the byte order mark was written. Also the turn of the writers.
    marked: Mutex<bool>,
}

impl Output {
    fn message(&self, message: &str) -> io::Result<()> {
        let mut marked = self.marked.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.banner {
            return self.write(format!("{message}\n").as_bytes());
        }
        let mark = if *marked { "" } else { "\u{feff}" };
        *marked = true;
        self.write(format!("{mark}{message}\r\nDEBUG: a message was written\r\n").as_bytes())
    }

    /// One line of `bytes` bytes, the newline not counted, that is never whole in memory.
    fn long_answer(&self, id: &RawValue, bytes: usize) -> io::Result<()> {
        let _turn = self.marked.lock().unwrap_or_else(PoisonError::into_inner);
        let head = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{"content":[{{"type":"text","text":""#, id.get());
        let tail = r#""}]}}"#;
        let mut left = bytes.saturating_sub(head.len() + tail.len());
        let chunk = vec![b'x'; CHUNK];
        self.write(head.as_bytes())?;
        while left > 0 {
            let some = left.min(CHUNK);
            self.write(&chunk[..some])?;
            left -= some;
        }
        self.write(format!("{tail}\n").as_bytes())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }
}
