//! Owns the certificates of a run: an authority made on the fly and two servers' certificates of it, one of them expired.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The authority's certificate.
pub fn ca(folder: &Path) -> PathBuf {
    folder.join("ca.pem")
}

/// Makes everything below `folder`; returns key and certificate, in one file each, of a server that is valid and one that is not.
pub fn certificates(folder: &Path) -> Result<(PathBuf, PathBuf), String> {
    let new = "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=tests";
    openssl(folder, new)?;
    // Clients hold the name that they connect to against it.
    fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1").map_err(|e| e.to_string())?;
    Ok((server(folder, "valid", 2)?, server(folder, "expired", -1)?))
}

fn server(folder: &Path, name: &str, days: i32) -> Result<PathBuf, String> {
    openssl(folder, &format!("req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"))?;
    let authority = "-CA ca.pem -CAkey ca.key -CAcreateserial -extfile names";
    openssl(folder, &format!("x509 -req -in {name}.csr -out {name}.crt -days {days} {authority}"))?;
    let read = |ending: &str| fs::read_to_string(folder.join(format!("{name}.{ending}"))).map_err(|e| e.to_string());
    let both = folder.join(format!("{name}.pem"));
    fs::write(&both, read("key")? + &read("crt")?).map_err(|e| e.to_string())?;
    Ok(both)
}

fn openssl(folder: &Path, words: &str) -> Result<(), String> {
    let output = Command::new("openssl").args(words.split(' ')).current_dir(folder).output();
    let output = output.map_err(|e| format!("openssl: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("openssl {words}: {}", String::from_utf8_lossy(&output.stderr)))
}
