//! Part c: ten thousand waiting streams, and the time until they are closed.

use tower_user_session::BoxError;

use crate::{
    clock,
    ending::{four, keep},
    figures::Report,
    ground::{Ground, PROCESSES},
    process::Process,
};

pub(crate) async fn run(ground: &Ground, report: &mut Report) -> Result<(), BoxError> {
    let each = ground.scaled(2_500, 250);
    let count = each * PROCESSES as u64;
    let database = ground.database(count).await?;
    let processes = four(&database).await?;
    keep(&processes, 0, count).await?;
    println!("\nc. {count} streams that wait, in {PROCESSES} processes");
    let mut closed = Vec::new();
    let (mut resident, mut allocated) = (0_u64, 0_u64);
    for (number, process) in (0..).zip(&processes) {
        closed.push(process.expect("closed 0"));
        let order = format!("open {} {}", number * each, (number + 1) * each);
        let [memory, bytes, open] = process.ask(&order, "opened 0").await?[..] else {
            return Err("a report that is none".into());
        };
        println!(
            "process {number}: {open} open, {:.0} bytes resident a stream, {:.0} allocated",
            memory as f64 / each as f64,
            bytes as f64 / each as f64
        );
        resident = resident.max(memory / each);
        allocated = allocated.max(bytes / each);
        if open != each {
            return Err("streams closed early".into());
        }
    }
    let [began, returned] = processes[0].ask("revoke_everyone 0", "ended 0").await?[..] else {
        return Err("a report that is none".into());
    };
    let mut last = 0;
    for expected in closed {
        last = last.max(*expected.report().await?.first().ok_or("no time")?);
    }
    let wrong: u64 = processes.iter().map(Process::failed).sum();
    let took = clock::millis(last.saturating_sub(began));
    println!(
        "revoke_everyone took {:.1} ms; all closed after {took:.1} ms; for another reason: {wrong}",
        clock::millis(returned - began)
    );
    report.add("streams_closed", took, "ms", "<= 2000");
    report.add("stream_resident", resident as f64, "bytes", "<= 2048");
    report.add("stream_allocated", allocated as f64, "bytes", "<= 2048");
    Ok(())
}
