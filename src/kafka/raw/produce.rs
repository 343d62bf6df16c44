//! Producing and the transactional calls on the native handle.

use super::c_name;
use crate::wire::{OutRecord, Outbox};
use rdkafka::bindings as rd;
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use std::cell::RefCell;
use std::ffi::CStr;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

/// A failed call: what the client says of it.
#[derive(Debug)]
pub struct CallError {
    /// The code.
    pub code: RDKafkaErrorCode,
    /// The client's words.
    pub message: String,
    /// Calling the same again may succeed.
    pub retriable: bool,
    /// The transaction must be aborted; then the producer can go on.
    pub abortable: bool,
    /// The producer is of no more use.
    pub fatal: bool,
}

/// SAFETY: `error` must be null or an error that the caller owns.
unsafe fn check(error: *mut rd::rd_kafka_error_t) -> Result<(), CallError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the caller's promise; its strings are copied before it is destroyed.
    unsafe {
        let failed = CallError {
            code: rd::rd_kafka_error_code(error).into(),
            message: CStr::from_ptr(rd::rd_kafka_error_string(error)).to_string_lossy().into_owned(),
            retriable: rd::rd_kafka_error_is_retriable(error) != 0,
            abortable: rd::rd_kafka_error_txn_requires_abort(error) != 0,
            fatal: rd::rd_kafka_error_is_fatal(error) != 0,
        };
        rd::rd_kafka_error_destroy(error);
        Err(failed)
    }
}

/// A transactional producer with handles of the topics it writes.
pub struct Transactions<C: ProducerContext + 'static> {
    topics: Vec<NonNull<rd::rd_kafka_topic_t>>,
    producer: BaseProducer<C>,
    /// Records whose values the client may still read. After the producer: it outlives the client.
    lent: RefCell<Vec<Arc<Outbox>>>,
}

impl<C: ProducerContext> Transactions<C> {
    /// Wraps a producer and opens topics; records name them by their number.
    pub fn new(producer: BaseProducer<C>, topics: &[&str]) -> Option<Self> {
        let mut transactions = Self { topics: Vec::new(), producer, lent: RefCell::default() };
        for topic in topics {
            // SAFETY: a live client, a C string, default settings; destroyed in `drop`.
            let topic = unsafe { rd::rd_kafka_topic_new(transactions.rk(), c_name(topic).as_ptr(), null_mut()) };
            transactions.topics.push(NonNull::new(topic)?);
        }
        Some(transactions)
    }
    /// The producer, for everything else.
    pub const fn producer(&self) -> &BaseProducer<C> {
        &self.producer
    }
    fn rk(&self) -> *mut rd::rd_kafka_t {
        self.producer.client().native_ptr()
    }

    /// Queues a record by its index, with which delivery failures are reported. Its value is not copied: the records are kept until
    /// the transaction has ended, or the client has.
    pub fn produce(&self, records: &Arc<Outbox>, index: usize) -> Result<(), CallError> {
        self.keep(records);
        let record = &records.get(index);
        let headers = native_headers(record);
        let (key, value) = (memory(record.key), memory(record.value));
        let vus = [
            vu(rd::rd_kafka_vtype_t::RD_KAFKA_VTYPE_RKT, |u| u.rkt = self.topics[record.topic as usize].as_ptr()),
            vu(rd::rd_kafka_vtype_t::RD_KAFKA_VTYPE_PARTITION, |u| u.i32_ = record.partition),
            vu(rd::rd_kafka_vtype_t::RD_KAFKA_VTYPE_TIMESTAMP, |u| u.i64_ = record.timestamp_ms),
            vu(rd::rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY, |u| u.mem = key),
            vu(rd::rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE, |u| u.mem = value),
            vu(rd::rd_kafka_vtype_t::RD_KAFKA_VTYPE_OPAQUE, |u| u.ptr = index as *mut _),
            vu(rd::rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADERS, |u| u.headers = headers),
        ];
        // SAFETY: each value has the type its tag says; the key is copied before the call returns. The value must stay where it is
        // and as it is until the record was delivered or given up: `lent` holds it, and nobody writes to what is shared.
        let result = unsafe { check(rd::rd_kafka_produceva(self.rk(), vus.as_ptr(), vus.len())) };
        if result.is_err() {
            // SAFETY: the client takes the headers only when it takes the record.
            unsafe { rd::rd_kafka_headers_destroy(headers) };
        }
        result
    }

    /// Adds the input offsets, fenced by the group's generation. Blocks up to `timeout_ms`.
    pub fn send_offsets(
        &self,
        offsets: &rdkafka::TopicPartitionList,
        group: &Membership,
        timeout_ms: i32,
    ) -> Result<(), CallError> {
        let group = group.native.as_ptr();
        // SAFETY: a live producer, list and copy of the membership; the call keeps none of them.
        unsafe { check(rd::rd_kafka_send_offsets_to_transaction(self.rk(), offsets.ptr(), group, timeout_ms)) }
    }

    /// Whether all records are delivered, or given up and their reports served. Blocks up to `timeout_ms`.
    ///
    /// The client's own call: with reports as events it waits on a condition for the last acknowledgement.
    pub fn flush(&self, timeout_ms: i32) -> bool {
        // SAFETY: a live producer.
        let flushed = unsafe { rd::rd_kafka_flush(self.rk(), timeout_ms) };
        flushed == rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
    }

    /// Commits. Blocks up to `timeout_ms`.
    pub fn commit(&self, timeout_ms: i32) -> Result<(), CallError> {
        // SAFETY: a live producer.
        unsafe { check(rd::rd_kafka_commit_transaction(self.rk(), timeout_ms)) }.inspect(|()| self.ended())
    }

    /// Aborts. Blocks up to `timeout_ms`; reports must be drained beside it.
    pub fn abort(&self, timeout_ms: i32) -> Result<(), CallError> {
        // SAFETY: a live producer.
        unsafe { check(rd::rd_kafka_abort_transaction(self.rk(), timeout_ms)) }.inspect(|()| self.ended())
    }

    fn keep(&self, records: &Arc<Outbox>) {
        let mut lent = self.lent.borrow_mut();
        if !lent.last().is_some_and(|last| Arc::ptr_eq(last, records)) {
            lent.push(records.clone());
        }
    }

    /// A commit or abort that succeeds has flushed: the client holds no record any more, and no report of one.
    fn ended(&self) {
        self.lent.borrow_mut().clear();
    }
}

impl<C: ProducerContext> Drop for Transactions<C> {
    fn drop(&mut self) {
        for topic in &self.topics {
            // SAFETY: made in `new`, destroyed once; the producer is dropped after this.
            unsafe { rd::rd_kafka_topic_destroy(topic.as_ptr()) }
        }
    }
}

fn vu(vtype: rd::rd_kafka_vtype_t, set: impl FnOnce(&mut rd::rd_kafka_vu_s__bindgen_ty_1)) -> rd::rd_kafka_vu_t {
    let mut vu = rd::rd_kafka_vu_t { vtype, u: rd::rd_kafka_vu_s__bindgen_ty_1 { _pad: [0; 64] } };
    set(&mut vu.u);
    vu
}

fn memory(bytes: Option<&[u8]>) -> rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
    let (ptr, size) = bytes.map_or((null_mut(), 0), |b| (b.as_ptr().cast_mut().cast(), b.len()));
    rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 { ptr, size }
}

fn native_headers(record: &OutRecord<'_>) -> *mut rd::rd_kafka_headers_t {
    let headers = record.headers();
    // SAFETY: names and values are copied; a null value is a header without one.
    unsafe {
        let native = rd::rd_kafka_headers_new(headers.len());
        for (name, value) in headers {
            let value = memory(value);
            rd::rd_kafka_header_add(native, name.as_ptr().cast(), name.len() as isize, value.ptr, value.size as isize);
        }
        native
    }
}

/// Who a consumer was in its group at one moment.
pub struct Membership {
    /// The client's own copy of it, which goes with offsets.
    native: NonNull<rd::rd_kafka_consumer_group_metadata_t>,
    /// The group's generation that it has joined.
    pub generation: i32,
    /// The id that the group gave it; another one after the group has let it go.
    pub member: String,
}

/// The consumer's membership, when it has one; commits without would not be fenced.
pub fn membership(consumer: *mut rd::rd_kafka_t) -> Option<Membership> {
    // SAFETY: a live consumer's handle; what is returned is a copy, and so is its member id.
    let (native, generation, member) = unsafe {
        let native = NonNull::new(rd::rd_kafka_consumer_group_metadata(consumer))?;
        let member = rd::rd_kafka_consumer_group_metadata_member_id(native.as_ptr());
        let member =
            if member.is_null() { String::new() } else { CStr::from_ptr(member).to_string_lossy().into_owned() };
        (native, rd::rd_kafka_consumer_group_metadata_generation_id(native.as_ptr()), member)
    };
    let found = Membership { native, generation, member };
    (found.generation >= 0 && !found.member.is_empty()).then_some(found)
}

impl Drop for Membership {
    fn drop(&mut self) {
        // SAFETY: the copy is this value's own.
        unsafe { rd::rd_kafka_consumer_group_metadata_destroy(self.native.as_ptr()) };
    }
}
