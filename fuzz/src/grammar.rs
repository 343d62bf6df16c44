//! Commands that are nearly right, made of an input's choices: mutated bytes alone seldom have two faults in one document.

use arbitrary::{Result, Unstructured};

const COMMAND: [&str; 5] = ["request_id", "card_id", "accounts", r"card\u005fid", "x"];
const ACCOUNT: [&str; 5] = ["iban", "currency", "type", r"\u0069ban", "y"];
const IDS: [&str; 3] = [
    r#""019ab688-bef2-72c4-6a29-d0e08be76d95""#,
    r#""019AB688-BEF2-72C4-6A29-D0E08BE76D95""#,
    r#""019ab688bef2-72c4-6a29-d0e08be76d95-""#,
];
const NUMBERS: [&str; 4] =
    [r#""ES7921000813610123456789""#, r#""es79 2100 0813 6101 2345 6789""#, r#""ES7921000813610123456788""#, r#""1""#];
const CURRENCIES: [&str; 4] = [r#""USD""#, r#""XCG""#, r#""HRK""#, r#""usd""#];
const TYPES: [&str; 4] = [r#""IBAN""#, r#""CARD""#, r#""\u0049BAN""#, r#""iban""#];
/// What is wrong wherever it stands, or in most places.
const ODD: [&str; 12] = [
    "null",
    "7",
    "-1.5e3",
    "1e999",
    "true",
    r#""x""#,
    "\"\"",
    r#""\ud800""#,
    "[]",
    "{}",
    r#"[{"z":[{}]}]"#,
    "[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]",
];

/// The command's text.
pub fn command(choices: &mut Unstructured<'_>) -> Result<String> {
    object(choices, &COMMAND, |choices, name| match name {
        "accounts" => accounts(choices),
        _ => one_of(choices, &IDS),
    })
}

fn accounts(choices: &mut Unstructured<'_>) -> Result<String> {
    let count = choices.int_in_range(0..=4)?;
    let accounts = (0..count).map(|_| usually(choices, account)).collect::<Result<Vec<_>>>()?;
    Ok(format!("[{}]", accounts.join(",")))
}

fn account(choices: &mut Unstructured<'_>) -> Result<String> {
    object(choices, &ACCOUNT, |choices, name| match name {
        "currency" => one_of(choices, &CURRENCIES),
        "type" => one_of(choices, &TYPES),
        _ => one_of(choices, &NUMBERS),
    })
}

/// The first three names in any order, each nearly always once, and sometimes one of the others.
fn object(
    choices: &mut Unstructured<'_>,
    names: &[&str; 5],
    value: impl Fn(&mut Unstructured<'_>, &str) -> Result<String>,
) -> Result<String> {
    let mut chosen = names[..3].to_vec();
    if choices.ratio(1, 4)? {
        chosen.insert(choices.choose_index(4)?, choices.choose(names)?);
    }
    if choices.ratio(1, 4)? {
        chosen.remove(choices.choose_index(chosen.len())?);
    }
    let turn = choices.choose_index(chosen.len())?;
    chosen.rotate_left(turn);
    let field = |name: &&str| Ok(format!("\"{name}\":{}", usually(choices, |choices| value(choices, name))?));
    Ok(format!("{{{}}}", chosen.iter().map(field).collect::<Result<Vec<_>>>()?.join(",")))
}

fn usually(
    choices: &mut Unstructured<'_>,
    make: impl FnOnce(&mut Unstructured<'_>) -> Result<String>,
) -> Result<String> {
    if choices.ratio(1, 8)? { one_of(choices, &ODD) } else { make(choices) }
}

fn one_of(choices: &mut Unstructured<'_>, texts: &[&str]) -> Result<String> {
    choices.choose(texts).map(|text| (*text).to_owned())
}
