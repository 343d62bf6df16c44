//! What is sent: each command is a function of its number, so that two runs send the same.

/// A kind of load.
pub struct Workload {
    pub name: &'static str,
    pub about: &'static str,
    pub cards: Cards,
    pub accounts: Accounts,
    pub partitions: i32,
    /// How many different commands there are; the rest repeat them. 0: all differ.
    pub different: u64,
    /// Whether all are answered with an error.
    pub rejected: bool,
    /// How many commands, where the workload has its own number.
    pub count: Option<u64>,
}

/// Which card a command updates.
pub enum Cards {
    /// Any of so many, each as often as another.
    Uniform(u64),
    /// Any of so many, the n-th with a weight of 1/n.
    Zipf(u64),
}

/// How many accounts a command has: from, to.
pub struct Accounts(pub u64, pub u64);

pub const USUAL: Workload = Workload {
    name: "uniform",
    about: "200,000 cards, 1 to 3 accounts, 8 partitions",
    cards: Cards::Uniform(200_000),
    accounts: Accounts(1, 3),
    partitions: 8,
    different: 0,
    rejected: false,
    count: None,
};

/// All of them; the first is what the others differ from.
pub const WORKLOADS: [Workload; 9] = [
    USUAL,
    Workload { name: "zipf", about: "the n-th card with a weight of 1/n", cards: Cards::Zipf(200_000), ..USUAL },
    Workload { name: "duplicates", about: "10,000 commands, repeated", different: 10_000, ..USUAL },
    Workload { name: "rejected", about: "all answered with an error", rejected: true, ..USUAL },
    Workload { name: "hot", about: "one card", cards: Cards::Uniform(1), ..USUAL },
    Workload { name: "wide", about: "20 accounts a command", accounts: Accounts(20, 20), ..USUAL },
    Workload { name: "64-partitions", about: "as uniform, 64 partitions", partitions: 64, ..USUAL },
    Workload { name: "1-partition", about: "as uniform, 1 partition", partitions: 1, ..USUAL },
    Workload {
        name: "many",
        about: "10,000,000 cards, a command each",
        cards: Cards::Uniform(10_000_000),
        count: Some(10_000_000),
        ..USUAL
    },
];

const CURRENCIES: [&str; 20] = [
    "USD", "EUR", "GBP", "CHF", "PLN", "SEK", "NOK", "JPY", "AED", "CZK", "DKK", "HUF", "RON", "TRY", "CAD", "AUD",
    "NZD", "SGD", "HKD", "MXN",
];

/// Random-looking and the same at each run.
fn mix(number: u64) -> u64 {
    let mixed = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) ^ mixed >> 31
}

fn uuid(high: u64, low: u64) -> String {
    let (a, b) = (mix(high), mix(high ^ low.rotate_left(32)) >> 16);
    format!("{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}", a >> 32, a >> 16 & 0xffff, a & 0xfff, b >> 36 & 0xfff, low)
}

impl Workload {
    /// The key and the value of the command with this number. The number stands at the end of its `request_id`.
    pub fn command(&self, number: u64) -> (String, String) {
        let number = if self.different == 0 { number } else { number % self.different };
        let card_id = uuid(0xca4d, self.card(mix(number)));
        let accounts: Vec<String> = (0..self.accounts(number)).map(|i| self.account(number, i)).collect();
        let value = format!(
            r#"{{"request_id":"{}","card_id":"{card_id}","accounts":[{}]}}"#,
            uuid(mix(number), number),
            accounts.join(",")
        );
        (card_id, value)
    }

    fn card(&self, dice: u64) -> u64 {
        match self.cards {
            Cards::Uniform(cards) => dice % cards,
            // The inverse of the integral of 1/x: near enough to the sum.
            Cards::Zipf(cards) => ((cards as f64).powf(dice as f64 / u64::MAX as f64) - 1.0) as u64,
        }
    }

    fn accounts(&self, number: u64) -> u64 {
        let Accounts(from, to) = self.accounts;
        from + mix(number ^ 0xacc) % (to - from + 1)
    }

    fn account(&self, number: u64, index: u64) -> String {
        let many = self.accounts.1 as usize > 10;
        let place = if many { index as usize } else { mix(number ^ index << 56) as usize % 10 };
        let currency = if self.rejected { "QQQ" } else { CURRENCIES[place] };
        format!(r#"{{"iban":"{}","currency":"{currency}","type":"IBAN"}}"#, iban(mix(number ^ index << 48)))
    }
}

/// A Spanish IBAN with right check digits (ISO 13616): `ES` counts as 1428.
fn iban(dice: u64) -> String {
    let number = format!("{dice:020}");
    let remainder = format!("{number}142800").bytes().fold(0, |rest, digit| (rest * 10 + u64::from(digit - b'0')) % 97);
    format!("ES{:02}{number}", 98 - remainder)
}
