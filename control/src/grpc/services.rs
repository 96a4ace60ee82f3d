//! The services of `mayastor.v1`: each rpc is one command, answered at the desk.

use api::v1::ana_service_server::{AnaService, AnaServiceServer};
use api::v1::counter_service_server::{CounterService, CounterServiceServer};
use api::v1::device_service_server::{DeviceService, DeviceServiceServer};
use api::v1::namespace_service_server::{NamespaceService, NamespaceServiceServer};
use api::v1::nexus_service_server::{NexusService, NexusServiceServer};
use api::v1::portal_service_server::{PortalService, PortalServiceServer};
use api::v1::subsystem_service_server::{SubsystemService, SubsystemServiceServer};
use api::{REQUEST_BYTES_MAX, v1};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::desk::Desk;

/// A service whose every rpc goes to the desk.
macro_rules! service {
    ($service:ident { $($rpc:ident: $request:ident -> $response:ident;)* }) => {
        #[tonic::async_trait]
        impl $service for Desk {
            $(
                async fn $rpc(
                    &self,
                    request: Request<v1::$request>,
                ) -> Result<Response<v1::$response>, Status> {
                    self.answer(request).await
                }
            )*
        }
    };
}

service! {
    DeviceService {
        list_devices: ListDevicesRequest -> ListDevicesResponse;
        add_device: AddDeviceRequest -> AddDeviceResponse;
        remove_device: RemoveDeviceRequest -> RemoveDeviceResponse;
        resize_device: ResizeDeviceRequest -> ResizeDeviceResponse;
        set_fault: SetFaultRequest -> SetFaultResponse;
        clear_fault: ClearFaultRequest -> ClearFaultResponse;
        set_delay: SetDelayRequest -> SetDelayResponse;
        clear_delay: ClearDelayRequest -> ClearDelayResponse;
    }
}

service! {
    NexusService {
        list_nexuses: ListNexusesRequest -> ListNexusesResponse;
        create_nexus: CreateNexusRequest -> CreateNexusResponse;
        destroy_nexus: DestroyNexusRequest -> DestroyNexusResponse;
        pause_nexus: PauseNexusRequest -> PauseNexusResponse;
        resume_nexus: ResumeNexusRequest -> ResumeNexusResponse;
        grow_nexus: GrowNexusRequest -> GrowNexusResponse;
        verify_nexus: VerifyNexusRequest -> VerifyNexusResponse;
        stop_verify_nexus: StopVerifyNexusRequest -> StopVerifyNexusResponse;
        add_child: AddChildRequest -> AddChildResponse;
        remove_child: RemoveChildRequest -> RemoveChildResponse;
        offline_child: OfflineChildRequest -> OfflineChildResponse;
        fault_child: FaultChildRequest -> FaultChildResponse;
        start_rebuild: StartRebuildRequest -> StartRebuildResponse;
        stop_rebuild: StopRebuildRequest -> StopRebuildResponse;
        pause_rebuild: PauseRebuildRequest -> PauseRebuildResponse;
        resume_rebuild: ResumeRebuildRequest -> ResumeRebuildResponse;
    }
}

service! {
    SubsystemService {
        list_subsystems: ListSubsystemsRequest -> ListSubsystemsResponse;
        add_subsystem: AddSubsystemRequest -> AddSubsystemResponse;
        remove_subsystem: RemoveSubsystemRequest -> RemoveSubsystemResponse;
        add_host: AddHostRequest -> AddHostResponse;
        remove_host: RemoveHostRequest -> RemoveHostResponse;
        set_host_policy: SetHostPolicyRequest -> SetHostPolicyResponse;
    }
}

service! {
    NamespaceService {
        add_namespace: AddNamespaceRequest -> AddNamespaceResponse;
        remove_namespace: RemoveNamespaceRequest -> RemoveNamespaceResponse;
        resize_namespace: ResizeNamespaceRequest -> ResizeNamespaceResponse;
    }
}

service! {
    AnaService {
        set_ana_state: SetAnaStateRequest -> SetAnaStateResponse;
    }
}

service! {
    PortalService {
        list_portals: ListPortalsRequest -> ListPortalsResponse;
        add_portal: AddPortalRequest -> AddPortalResponse;
        remove_portal: RemovePortalRequest -> RemovePortalResponse;
    }
}

service! {
    CounterService {
        read_counters: ReadCountersRequest -> ReadCountersResponse;
    }
}

/// All services, over one desk.
pub(super) fn routes(desk: &Desk) -> Routes {
    macro_rules! bounded {
        ($server:ident) => {
            $server::new(desk.clone()).max_decoding_message_size(REQUEST_BYTES_MAX)
        };
    }
    Routes::new(bounded!(DeviceServiceServer))
        .add_service(bounded!(NexusServiceServer))
        .add_service(bounded!(SubsystemServiceServer))
        .add_service(bounded!(NamespaceServiceServer))
        .add_service(bounded!(AnaServiceServer))
        .add_service(bounded!(PortalServiceServer))
        .add_service(bounded!(CounterServiceServer))
}
