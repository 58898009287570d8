//! What the demo prints: steps with what is waited for, the limit and the time taken, and a table that lives while a
//! step lasts.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::table;
use super::view::View;

/// Width of a table where the terminal does not say its own.
const WIDTH: usize = 160;

/// Standard output as the demo uses it.
#[derive(Debug)]
pub(crate) struct Screen {
    begin: Instant,
    terminal: bool,
    /// Lines of the live table that stand at the bottom of the terminal.
    drawn: usize,
    step: Instant,
    last: View,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            begin: now,
            terminal: std::io::stdout().is_terminal(),
            drawn: 0,
            step: now,
            last: View::default(),
        }
    }

    /// A line that belongs to no step.
    pub(crate) fn say(&mut self, line: &str) {
        self.freeze();
        println!("{line}");
    }

    /// A step begins: what is waited for, and how long at most.
    pub(crate) fn step(&mut self, what: &str, limit: Duration) {
        self.freeze();
        self.step = Instant::now();
        println!("\n{} {} (at most {} s)", self.time(), self.paint("1", what), limit.as_secs());
    }

    /// Something that the step shows to be so.
    pub(crate) fn good(&mut self, line: &str) {
        self.freeze();
        println!("{}   {} {line}", self.time(), self.paint("32", "ok"));
    }

    /// The step is over.
    pub(crate) fn done(&mut self, line: &str) {
        let took = self.step.elapsed().as_secs_f32();
        self.good(&format!("{line} ({took:.1} s)"));
    }

    /// A line about what is going on.
    pub(crate) fn note(&mut self, line: &str) {
        self.freeze();
        println!("{}      {line}", self.time());
    }

    /// The headline of a failure.
    pub(crate) fn failed(&mut self) {
        self.freeze();
        let line = format!("FAILED after {:.1} s", self.elapsed().as_secs_f32());
        println!("\n{}", self.paint("31", &line));
    }

    /// Shows how things are now: the table on a terminal, else what is different from the last time.
    pub(crate) fn show(&mut self, view: &View) {
        if *view == self.last {
            return;
        }
        if self.terminal {
            self.erase();
            let width = rustix::termios::tcgetwinsize(std::io::stdout())
                .map_or(WIDTH, |size| usize::from(size.ws_col).saturating_sub(1));
            let lines = table::render(view, if width == 0 { WIDTH } else { width });
            for line in &lines {
                println!("{line}");
            }
            self.drawn = lines.len();
            let _ = std::io::stdout().flush();
        } else {
            for line in table::changes(&self.last, view) {
                println!("{}      {line}", self.time());
            }
        }
        self.last = view.clone();
    }

    /// What is below the table stays below it.
    fn freeze(&mut self) {
        self.drawn = 0;
    }

    fn erase(&mut self) {
        if self.drawn > 0 {
            print!("\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }

    fn time(&self) -> String {
        format!("[{:6.1} s]", self.begin.elapsed().as_secs_f32())
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.terminal { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Time since the demo began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }
}
