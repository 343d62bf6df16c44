//! Messages taken in batches from a private queue.

use super::c_name;
use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::types::RDKafkaErrorCode;
use std::ffi::{CStr, c_void};
use std::ptr::{NonNull, null, null_mut};
use std::rc::Rc;

/// librdkafka sleeps until the whole array is full when it is given time to wait, so one record is awaited, then the rest
/// taken as it is.
const AWAITED: usize = 1;
/// Most messages taken at once: the array of pointers is cleared each time.
const TAKEN: usize = 4096;

/// A private queue. Batch consumption on the consumer's own queue would swallow rebalance events.
struct Queue(NonNull<rd::rd_kafka_queue_t>);

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: made by rd_kafka_queue_new in `Client::queue`, destroyed once, before its client (field order there).
        unsafe { rd::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

/// A client with its private queues. Messages hold it alive, since librdkafka's messages must not outlive their client.
struct Client<C: ConsumerContext + 'static> {
    queues: Vec<Queue>,
    consumer: BaseConsumer<C>,
}

impl<C: ConsumerContext> Client<C> {
    fn new(consumer: BaseConsumer<C>, queues: usize) -> Option<Rc<Self>> {
        let mut client = Self { queues: Vec::new(), consumer };
        for _ in 0..queues {
            // SAFETY: the client is alive; the queue is destroyed before it.
            let queue = unsafe { rd::rd_kafka_queue_new(client.rk()) };
            client.queues.push(Queue(NonNull::new(queue)?));
        }
        Some(Rc::new(client))
    }
    fn rk(&self) -> *mut rd::rd_kafka_t {
        use rdkafka::consumer::Consumer as _;
        self.consumer.client().native_ptr()
    }

    /// Takes up to `most` messages, waiting up to `wait_ms` for the first.
    fn take(&self, queue: usize, wait_ms: i32, most: usize, buffer: &mut Vec<*mut rd::rd_kafka_message_t>) {
        let most = most.min(TAKEN);
        buffer.clear();
        buffer.resize(most, null_mut());
        let queue = self.queues[queue].0.as_ptr();
        let mut taken = 0;
        if wait_ms > 0 {
            // SAFETY: the buffer has room for `most` ≥ 1 pointers, of which the call fills as many as it returns.
            let n = unsafe { rd::rd_kafka_consume_batch_queue(queue, wait_ms, buffer.as_mut_ptr(), AWAITED.min(most)) };
            taken = usize::try_from(n).unwrap_or(0);
        }
        if wait_ms == 0 || taken > 0 {
            // SAFETY: as above, for the rest of the buffer.
            let n = unsafe { rd::rd_kafka_consume_batch_queue(queue, 0, buffer.as_mut_ptr().add(taken), most - taken) };
            taken += usize::try_from(n).unwrap_or(0);
        }
        buffer.truncate(taken);
    }
}

/// A message as librdkafka delivered it: a record, or an error or end of a partition.
pub struct Message {
    raw: NonNull<rd::rd_kafka_message_t>,
    /// Held so that the client outlives its message.
    _client: Rc<dyn std::any::Any>,
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: taken from a queue, destroyed once, its client still alive.
        unsafe { rd::rd_kafka_message_destroy(self.raw.as_ptr()) }
    }
}

impl Message {
    fn raw(&self) -> &rd::rd_kafka_message_t {
        // SAFETY: alive until `drop`, and nothing writes to it.
        unsafe { self.raw.as_ref() }
    }
    /// The error that it stands for, if it is no record.
    pub fn error(&self) -> Option<RDKafkaErrorCode> {
        let code = RDKafkaErrorCode::from(self.raw().err);
        (code != RDKafkaErrorCode::NoError).then_some(code)
    }
    /// The partition.
    pub fn partition(&self) -> i32 {
        self.raw().partition
    }
    /// The offset; at the end of a partition the one that comes next.
    pub fn offset(&self) -> i64 {
        self.raw().offset
    }
    /// The key.
    pub fn key(&self) -> Option<&[u8]> {
        let raw = self.raw();
        // SAFETY: librdkafka's pointer and length, valid while the message is.
        unsafe { slice(raw.key, raw.key_len) }
    }
    /// The value.
    pub fn value(&self) -> Option<&[u8]> {
        let raw = self.raw();
        // SAFETY: as for the key.
        unsafe { slice(raw.payload, raw.len) }
    }
    /// Milliseconds since the epoch; `None` when the record has none.
    pub fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: a live message and a place for the kind.
        let at = unsafe { rd::rd_kafka_message_timestamp(self.raw.as_ptr(), &mut kind) };
        let known = kind != rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        (known && at >= 0).then_some(at)
    }
    /// The headers in order.
    pub fn headers(&self) -> HeaderIter<'_> {
        let mut headers = null_mut();
        // SAFETY: a live message; the headers stay the message's.
        let code = unsafe { rd::rd_kafka_message_headers(self.raw.as_ptr(), &mut headers) };
        let none = code != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        HeaderIter { headers: if none { null_mut() } else { headers }, next: 0, _message: self }
    }
}

/// SAFETY: `start` must be null or point to `len` bytes that live as long as `'a`.
unsafe fn slice<'a>(start: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller's promise.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast(), len) })
}

/// The headers of a message. A name that is not UTF-8 cannot be written again and is passed over.
pub struct HeaderIter<'m> {
    headers: *mut rd::rd_kafka_headers_t,
    next: usize,
    _message: &'m Message,
}

impl<'m> Iterator for HeaderIter<'m> {
    type Item = (&'m str, Option<&'m [u8]>);
    fn next(&mut self) -> Option<Self::Item> {
        while !self.headers.is_null() {
            let (mut name, mut value, mut len) = (null(), null(), 0);
            // SAFETY: the message's headers, alive for `'m`; the call fills the three places or says that there is no more.
            let code = unsafe { rd::rd_kafka_header_get_all(self.headers, self.next, &mut name, &mut value, &mut len) };
            if code != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return None;
            }
            self.next += 1;
            // SAFETY: a C string and bytes that belong to the message.
            let (name, value) = unsafe { (CStr::from_ptr(name), slice(value, len)) };
            if let Ok(name) = name.to_str() {
                return Some((name, value));
            }
        }
        None
    }
}

/// A group consumer whose partitions are read through private queues.
pub struct Consumer<C: ConsumerContext + 'static> {
    client: Rc<Client<C>>,
    buffer: Vec<*mut rd::rd_kafka_message_t>,
}

impl<C: ConsumerContext + 'static> Consumer<C> {
    /// Wraps a consumer and makes `queues` private queues.
    pub fn new(consumer: BaseConsumer<C>, queues: usize) -> Option<Self> {
        Some(Self { client: Client::new(consumer, queues)?, buffer: Vec::new() })
    }
    /// The consumer, for everything that is not batch consumption.
    pub fn consumer(&self) -> &BaseConsumer<C> {
        &self.client.consumer
    }
    /// The native handle.
    pub fn rk(&self) -> *mut rd::rd_kafka_t {
        self.client.rk()
    }
    /// Whether the group has given this member's partitions away.
    pub fn lost(&self) -> bool {
        use rdkafka::consumer::Consumer as _;
        self.client.consumer.assignment_lost()
    }
    /// Sends a partition's records to a private queue; to be called before each assignment of it.
    pub fn forward(&self, topic: &str, partition: i32, queue: usize) {
        // SAFETY: client and queue are alive; the partition's queue is a reference that is given back.
        unsafe {
            let own = rd::rd_kafka_queue_get_partition(self.rk(), c_name(topic).as_ptr(), partition);
            if !own.is_null() {
                rd::rd_kafka_queue_forward(own, self.client.queues[queue].0.as_ptr());
                rd::rd_kafka_queue_destroy(own);
            }
        }
    }
    /// Takes up to `most` messages from a queue, waiting up to `wait_ms` for the first.
    pub fn take(&mut self, queue: usize, wait_ms: i32, most: usize, mut each: impl FnMut(Message)) {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.client.take(queue, wait_ms, most, &mut buffer);
        for raw in buffer.drain(..).filter_map(NonNull::new) {
            each(Message { raw, _client: self.client.clone() });
        }
        self.buffer = buffer;
    }
}

/// Reads partitions from explicit offsets without a group.
pub struct RawReader<C: ConsumerContext + 'static> {
    topics: Vec<NonNull<rd::rd_kafka_topic_t>>,
    consumer: Consumer<C>,
}

/// What a reader met: topic by its number, partition, and the message.
pub struct ReadEvent {
    /// Number of the topic in the order they were opened.
    pub topic: usize,
    /// The record, the end of the partition, or an error.
    pub message: Message,
}

impl<C: ConsumerContext + 'static> RawReader<C> {
    /// Opens topics by name.
    pub fn new(consumer: BaseConsumer<C>, topics: &[&str]) -> Option<Self> {
        let mut reader = Self { topics: Vec::new(), consumer: Consumer::new(consumer, 1)? };
        for topic in topics {
            // SAFETY: a live client, a C string, default settings; destroyed in `drop`.
            let topic = unsafe { rd::rd_kafka_topic_new(reader.consumer.rk(), c_name(topic).as_ptr(), null_mut()) };
            reader.topics.push(NonNull::new(topic)?);
        }
        Some(reader)
    }
    /// The consumer, for requests about offsets.
    pub fn consumer(&self) -> &BaseConsumer<C> {
        self.consumer.consumer()
    }
    /// Starts to read a partition; `false` when it cannot be started.
    pub fn start(&self, topic: usize, partition: i32, offset: i64) -> bool {
        let queue = self.consumer.client.queues[0].0.as_ptr();
        // SAFETY: topic and queue belong to the live client.
        unsafe { rd::rd_kafka_consume_start_queue(self.topics[topic].as_ptr(), partition, offset, queue) == 0 }
    }
    /// Ends reading a partition.
    pub fn stop(&self, topic: usize, partition: i32) {
        // SAFETY: the topic belongs to the live client; a partition that is not being read is an error that changes nothing.
        unsafe { rd::rd_kafka_consume_stop(self.topics[topic].as_ptr(), partition) };
    }
    /// Takes up to `most` messages, waiting up to `wait_ms` for the first.
    pub fn take(&mut self, wait_ms: i32, most: usize, mut each: impl FnMut(ReadEvent)) {
        let topics = &self.topics;
        self.consumer.take(0, wait_ms, most, |message| {
            let topic = topics.iter().position(|t| t.as_ptr() == message.raw().rkt);
            if let Some(topic) = topic {
                each(ReadEvent { topic, message });
            }
        });
    }
}

impl<C: ConsumerContext + 'static> Drop for RawReader<C> {
    fn drop(&mut self) {
        for topic in &self.topics {
            // SAFETY: made in `new`, destroyed once; the client is dropped after this.
            unsafe { rd::rd_kafka_topic_destroy(topic.as_ptr()) }
        }
    }
}
