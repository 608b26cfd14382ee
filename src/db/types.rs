//! SQL types that both databases have, each in its own way, and the values that we keep in them.
//!
//! | type | Postgres | SQLite |
//! |---|---|---|
//! | [`Id`] | uuid | BLOB |
//! | [`Moment`] | timestamptz | INTEGER, microseconds since 1970 |
//! | [`Document`] | jsonb | TEXT |

use std::io::Write as _;

use diesel::{
    deserialize::{self, FromSql, FromSqlRow},
    expression::AsExpression,
    pg::{Pg, PgValue},
    query_builder::QueryId,
    serialize::{self, IsNull, Output, ToSql},
    sql_types::{BigInt, Binary, Nullable, SqlType, Text},
    sqlite::{Sqlite, SqliteValue},
};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::corrupt;
use crate::domain::{
    Error, Result,
    clock::Timestamp,
    ids::{
        ApiKeyId, AuditEntryId, DeliveryId, EventId, OperationId, SessionId, TenantId, VoiceAgentId, WebhookEndpointId,
    },
};

#[derive(Debug, Clone, Copy, Default, QueryId, SqlType)]
#[diesel(postgres_type(oid = 2950, array_oid = 2951))]
#[diesel(sqlite_type(name = "Binary"))]
pub struct Id;

#[derive(Debug, Clone, Copy, Default, QueryId, SqlType)]
#[diesel(postgres_type(oid = 1184, array_oid = 1185))]
#[diesel(sqlite_type(name = "Long"))]
pub struct Moment;

#[derive(Debug, Clone, Copy, Default, QueryId, SqlType)]
#[diesel(postgres_type(oid = 3802, array_oid = 3807))]
#[diesel(sqlite_type(name = "Text"))]
pub struct Document;

/// A UUID in a column.
#[derive(Debug, Clone, Copy, AsExpression, FromSqlRow)]
#[diesel(sql_type = Id)]
pub struct Uid(pub(crate) Uuid);

impl ToSql<Id, Pg> for Uid {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        out.write_all(self.0.as_bytes())?;
        Ok(IsNull::No)
    }
}

impl ToSql<Id, Sqlite> for Uid {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.0.as_bytes().as_slice());
        Ok(IsNull::No)
    }
}

impl FromSql<Id, Pg> for Uid {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        Ok(Self(Uuid::from_slice(value.as_bytes())?))
    }
}

impl FromSql<Id, Sqlite> for Uid {
    fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        let bytes = <Vec<u8> as FromSql<Binary, Sqlite>>::from_sql(value)?;
        Ok(Self(Uuid::from_slice(&bytes)?))
    }
}

/// A moment in a column.
#[derive(Debug, Clone, Copy, AsExpression, FromSqlRow)]
#[diesel(sql_type = Moment)]
pub struct At(pub(crate) Timestamp);

/// Postgres counts from 2000-01-01.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

impl ToSql<Moment, Pg> for At {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        out.write_all(&self.0.as_micros().saturating_sub(POSTGRES_EPOCH_MICROS).to_be_bytes())?;
        Ok(IsNull::No)
    }
}

impl ToSql<Moment, Sqlite> for At {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.0.as_micros());
        Ok(IsNull::No)
    }
}

impl FromSql<Moment, Pg> for At {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let micros = <i64 as FromSql<BigInt, Pg>>::from_sql(value)?;
        Ok(Self(Timestamp::from_micros(micros.saturating_add(POSTGRES_EPOCH_MICROS))))
    }
}

impl FromSql<Moment, Sqlite> for At {
    fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        Ok(Self(Timestamp::from_micros(<i64 as FromSql<BigInt, Sqlite>>::from_sql(value)?)))
    }
}

/// JSON text in a column.
#[derive(Debug, Clone, AsExpression, FromSqlRow)]
#[diesel(sql_type = Document)]
pub(crate) struct Json(String);

impl Json {
    pub(crate) fn of(value: &impl Serialize) -> Result<Self> {
        serde_json::to_string(value).map(Self).map_err(Error::internal)
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, column: &'static str) -> Result<T> {
        serde_json::from_str(&self.0).map_err(|_| corrupt(column))
    }
}

/// The first byte of a jsonb value on the wire.
const JSONB_VERSION: u8 = 1;

impl ToSql<Document, Pg> for Json {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        out.write_all(&[JSONB_VERSION])?;
        out.write_all(self.0.as_bytes())?;
        Ok(IsNull::No)
    }
}

impl ToSql<Document, Sqlite> for Json {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.0.as_str());
        Ok(IsNull::No)
    }
}

impl FromSql<Document, Pg> for Json {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        match value.as_bytes().split_first() {
            Some((&JSONB_VERSION, text)) => Ok(Self(std::str::from_utf8(text)?.to_owned())),
            _ => Err("an unknown version of jsonb".into()),
        }
    }
}

impl FromSql<Document, Sqlite> for Json {
    fn from_sql(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        <String as FromSql<Text, Sqlite>>::from_sql(value).map(Self)
    }
}

/// Lets a domain value stand in a query as itself, so that `tenant_id.eq(tenant)` takes a tenant's id only there
/// where the compiler has seen one.
macro_rules! bindable {
    ($value:ty, $sql:ty, $column:ty) => {
        impl AsExpression<$sql> for $value {
            type Expression = <$column as AsExpression<$sql>>::Expression;

            fn as_expression(self) -> Self::Expression {
                AsExpression::<$sql>::as_expression(<$column>::from(self))
            }
        }

        impl AsExpression<Nullable<$sql>> for $value {
            type Expression = <$column as AsExpression<Nullable<$sql>>>::Expression;

            fn as_expression(self) -> Self::Expression {
                AsExpression::<Nullable<$sql>>::as_expression(<$column>::from(self))
            }
        }
    };
}

macro_rules! bindable_ids {
    ($($id:ident),+) => { $(
        impl From<$id> for Uid {
            fn from(id: $id) -> Self {
                Self(*id.as_uuid())
            }
        }

        impl From<Uid> for $id {
            fn from(uid: Uid) -> Self {
                Self::from_uuid(uid.0)
            }
        }

        bindable!($id, Id, Uid);
    )+ };
}
bindable_ids!(
    ApiKeyId,
    AuditEntryId,
    DeliveryId,
    EventId,
    OperationId,
    SessionId,
    TenantId,
    VoiceAgentId,
    WebhookEndpointId
);

impl From<Timestamp> for At {
    fn from(moment: Timestamp) -> Self {
        Self(moment)
    }
}

impl From<At> for Timestamp {
    fn from(at: At) -> Self {
        at.0
    }
}
bindable!(Timestamp, Moment, At);

/// A count that our own limits keep far below this column's.
pub(crate) fn to_integer(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

pub(crate) fn from_integer(value: i32, column: &'static str) -> Result<u32> {
    u32::try_from(value).map_err(|_| corrupt(column))
}
