//! Compares `tower-user-session` with other ways to get from a session cookie to a user. See
//! `--help`, and `BENCHMARKS.md` for the results.

mod contestants;
mod counts;
mod cpu;
mod data;
mod delaying_proxy;
mod distance;
mod growth;
mod load;
mod machine;
mod micro;
mod options;
mod over_http;
mod pgbench;
mod ratios;
mod report;
mod request;
mod results;
mod run;
mod tls;

use std::{fs, process::ExitCode};

use self::{delaying_proxy::Host, options::Options, results::Results};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    match compare() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether each response was right.
fn compare() -> Result<bool, BoxError> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let [flag, listen, server, nanos] = &arguments[..]
        && flag == "--delaying-proxy"
    {
        let [listen, server, nanos] =
            [listen, server, nanos].map(|text| text.to_str().unwrap_or_default());
        let round_trip = std::time::Duration::from_nanos(nanos.parse()?);
        delaying_proxy::run(&Host::new(listen), &Host::new(server), round_trip)?;
        return Ok(true);
    }
    let Some(options) = Options::from_command_line()? else {
        return Ok(true);
    };
    let results = if options.report {
        let results =
            load(&options).map_err(|error| format!("there are no results to report: {error}"))?;
        report::write_into_repository(&results)?;
        results
    } else {
        fs::create_dir_all(&options.out)?;
        let earlier = if options.keep {
            load(&options).unwrap_or_default()
        } else {
            Results::default()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let results = runtime.block_on(run::run(&options, earlier))?;
        report::write(&results, &options.out)?;
        results
    };
    print!("{}", report::table(&results));
    println!("\nwrong answers: {}\n", results.wrong);
    for ratio in ratios::all(&results) {
        println!("{ratio}");
    }
    Ok(results.wrong == 0)
}

fn load(options: &Options) -> Result<Results, BoxError> {
    let text = fs::read_to_string(options.out.join("results.json"))?;
    Ok(serde_json::from_str(&text)?)
}
