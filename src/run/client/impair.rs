//! `netferry impair`.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::words::split;
use super::{ClientError, table};
use crate::cli::native::impair::Impair;
use crate::config::Impairments;

/// Carries it out.
pub fn run(impair: &Impair) -> Result<u8, ClientError> {
    let (target, list) = split(&impair.words, impair.control.as_deref());
    let arguments = match list.as_str() {
        "" => json!({}),
        list => {
            let how: Impairments =
                list.parse().map_err(|error| ClientError::Usage(format!("{list}: {error}")))?;
            json!({ "impairments": how.to_string() })
        }
    };
    let answer = super::reach(&target)?.ask("impair", arguments)?;
    io::stdout().write_all(render(&answer).as_bytes()).map_err(ClientError::Output)?;
    Ok(0)
}

fn render(answer: &Value) -> String {
    let mut text = format!("{}\n", answer["impairments"].as_str().unwrap_or_default());
    let names = ["packets", "lost", "overflowed", "duplicated", "reordered"];
    let mut rows =
        vec![["", "PACKETS", "LOST", "OVERFLOWED", "DUPLICATED", "REORDERED"].map(str::to_owned).to_vec()];
    for (heading, direction) in [("from container", "from_container"), ("to container", "to_container")] {
        let counts = names.map(|name| answer[direction][name].as_u64().unwrap_or(0).to_string());
        rows.push(std::iter::once(heading.to_owned()).chain(counts).collect());
    }
    text.push_str(&table::render(&rows, &[1, 2, 3, 4, 5]));
    if let Some(spliced) = answer["spliced"].as_u64() {
        let sentence = format!(
            "From loopback to loopback nothing crosses this link: it is neither delayed nor lost ({spliced} flows now).\n"
        );
        text.push_str(&sentence);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_cross_the_link_is_told_where_there_may_be_any() {
        let counts = json!({ "packets": 1, "lost": 0, "overflowed": 0, "duplicated": 0, "reordered": 0 });
        let answer = |spliced: Value| json!({ "impairments": "loss=1%", "from_container": counts, "to_container": counts, "spliced": spliced });
        assert!(!render(&answer(Value::Null)).contains("loopback"));
        let told = render(&answer(2.into()));
        assert!(told.ends_with("it is neither delayed nor lost (2 flows now).\n"), "{told}");
    }
}
