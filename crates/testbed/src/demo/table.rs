//! The live table, and the plain lines that say the same where there is no terminal. Pure.

use std::collections::BTreeMap;

use super::view::{Host, Machine, View};

const HEADINGS: [&str; 7] = ["HOST", "RACK", "POWER", "STATE", "MACHINE", "PHASE", "NODE"];

/// One line of the table: its cells, and what is being waited for.
struct Row {
    cells: [String; 7],
    note: String,
}

/// The table, with lines of at most `width` characters.
pub(crate) fn render(view: &View, width: usize) -> Vec<String> {
    let rows = rows(view);
    let lengths: Vec<usize> = (0..HEADINGS.len())
        .map(|n| {
            let cells = rows.iter().map(|row| row.cells[n].chars().count());
            cells.chain([HEADINGS[n].len()]).max().unwrap_or(0)
        })
        .collect();
    let headings = HEADINGS.map(str::to_owned);
    let head = Row { cells: headings, note: "WAITING FOR".to_owned() };
    std::iter::once(head)
        .chain(rows)
        .map(|row| {
            let cells = row.cells.iter().zip(&lengths).map(|(cell, length)| format!("{cell:<length$}  "));
            let line = cells.collect::<String>() + &row.note;
            line.trim_end().chars().take(width).collect()
        })
        .collect()
}

/// Lines about what is different from before. What is waited for changes often and is left out.
pub(crate) fn changes(before: &View, after: &View) -> Vec<String> {
    let old: BTreeMap<String, [String; 7]> =
        rows(before).into_iter().map(|row| (key(&row.cells), row.cells)).collect();
    let mut lines = Vec::new();
    for row in rows(after) {
        let key = key(&row.cells);
        if old.get(&key) == Some(&row.cells) {
            continue;
        }
        let [host, _, power, state, machine, phase, node] = &row.cells;
        let mut line = match (host.as_str(), state.as_str()) {
            ("-", _) => format!("{machine}: {phase}, without a host"),
            (host, "-") => format!("{host}: new"),
            (host, state) => format!("{host}: {state}, power {power}"),
        };
        if host != "-" && machine != "-" {
            line += &format!(", {machine} {phase}");
        }
        if node != "-" {
            line += &format!(", node {node}");
        }
        lines.push(line);
    }
    let errors = |view: &View| -> BTreeMap<String, Option<String>> {
        view.hosts.iter().map(|host| (host.name.clone(), host.error.clone())).collect()
    };
    let old = errors(before);
    for (name, error) in errors(after) {
        match (old.get(&name).cloned().flatten(), error) {
            (before, Some(error)) if before.as_ref() != Some(&error) => {
                lines.push(format!("{name}: error: {error}"))
            }
            (Some(_), None) => lines.push(format!("{name}: the error is over")),
            _ => {}
        }
    }
    lines
}

/// A host's line goes by the host, that of a machine without one by the machine.
fn key(cells: &[String; 7]) -> String {
    if cells[0] == "-" { cells[4].clone() } else { cells[0].clone() }
}

fn rows(view: &View) -> Vec<Row> {
    let with_host = view.hosts.iter().map(|host| row(view, Some(host), view.machine_of(host)));
    let without = view.machines.iter().filter(|machine| view.host_of(machine).is_none());
    with_host.chain(without.map(|machine| row(view, None, Some(machine)))).collect()
}

fn row(view: &View, host: Option<&Host>, machine: Option<&Machine>) -> Row {
    let or_dash = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned();
    let node = machine.and_then(|machine| view.node_of(machine));
    let note = host
        .and_then(|host| host.error.clone().or_else(|| Some(host.waiting.clone())))
        .filter(|note| !note.is_empty())
        .or_else(|| machine.map(|machine| machine.waiting.clone()));
    Row {
        cells: [
            or_dash(host.map(|host| host.name.as_str())),
            or_dash(host.map(|host| host.rack.as_str())),
            or_dash(host.map(|host| host.power.as_str())),
            or_dash(host.map(|host| host.state.as_str())),
            or_dash(machine.map(|machine| machine.name.as_str())),
            or_dash(machine.map(phase)),
            or_dash(node.map(|node| if node.ready { "Ready" } else { "NotReady" })),
        ],
        // A line feed would break the table.
        note: note.unwrap_or_default().replace(char::is_control, " "),
    }
}

fn phase(machine: &Machine) -> &str {
    match (machine.deleting, machine.phase.as_str()) {
        (true, _) => "Deleting",
        (false, "") => "new",
        (false, phase) => phase,
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::{nodes, objects};
    use super::*;

    #[test]
    fn a_line_for_each_host_and_for_each_machine_without_one() {
        let mut view = View::read(&objects(), Some(&nodes()));
        view.machines.push(Machine {
            name: "demo-b".to_owned(),
            phase: "Pending".to_owned(),
            waiting: "a host: 2 in use".to_owned(),
            ..Machine::default()
        });
        let lines = render(&view, 200);
        assert_eq!(
            lines,
            [
                "HOST     RACK    POWER  STATE        MACHINE  PHASE    NODE   WAITING FOR",
                "host-01  rack-1  On     provisioned  demo-a   Running  Ready",
                "host-02  rack-2  Off    available    -        -        -      BMCUnreachable: no route",
                "-        -       -      -            demo-b   Pending  -      a host: 2 in use",
            ]
        );
        assert!(render(&view, 20).iter().all(|line| line.chars().count() <= 20));
    }

    #[test]
    fn only_what_changed_is_said() {
        let before = View::read(&objects(), None);
        let mut after = View::read(&objects(), Some(&nodes()));
        assert_eq!(changes(&before, &after), ["host-01: provisioned, power On, demo-a Running, node Ready"]);
        after.hosts[0].waiting = "something else".to_owned();
        after.hosts[1].error = None;
        assert_eq!(
            changes(&before, &after),
            ["host-01: provisioned, power On, demo-a Running, node Ready", "host-02: the error is over"]
        );
        assert!(changes(&after, &after).is_empty());
    }
}
